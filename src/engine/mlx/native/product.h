// The product x · transpose(w) in float32, for weights that are packed, half
// width or full width. The formats and the choice between the ways to compute;
// the inner loops are in `product_rows.h`, once for each instruction set.
#pragma once

#include <cstdint>

namespace roundhouse {

enum class Format { float32, float16, bfloat16 };

// A matrix of `rows` × `columns` that is multiplied transposed.
//
// With `bits` = 0 it is dense: `data` holds its numbers row by row in `format`.
// Otherwise it is quantised as MLX's affine mode does it: each row is a stream
// of unsigned `bits`-wide integers, the lowest bits of the lowest byte first,
// and each run of `group` of them stands for `scale * integer + bias`. `scales`
// and `biases` are row by row in `format`. `columns` is a multiple of 32 then.
struct Weights {
  const void* data;
  int64_t rows;
  int64_t columns;
  Format format;
  int bits = 0;
  int group = 0;
  const void* scales = nullptr;
  const void* biases = nullptr;
};

// y [count, w.rows] = x [count, w.columns] · transpose(w)
void product(const Weights& w, const float* x, int64_t count, float* y);

// The best that the processor has are used, unless another choice is made here,
// for tests and measurements. False where the processor lacks them.
enum class Instructions { portable, avx2, avx512 };
bool use_instructions(Instructions instructions);

// The inner loops for one instruction set. `scratch` holds at least
// `scratch_floats(w)` numbers.
struct Kernels {
  // Weight rows first..last against 1, 2, 3, 4 or 8 rows of x. `slices` is x
  // once more, as far as `kSlice` divides it: kSlice columns of all rows after
  // one another, then the next columns. (One row is its own slices.)
  void (*few_rows)(
      const Weights& w, int64_t first, int64_t last, const float* x,
      const float* slices, int count, float* y, float* scratch);
  // Writes weight rows first..last out as float32.
  void (*expand)(
      const Weights& w, int64_t first, int64_t last, float* out,
      float* scratch);
};

constexpr int kSlice = 16;
// How many weight rows the inner loops take at a time, at most.
constexpr int kMostColumns = 8;

// Groups in a row. A group is a power of two: a division here would cost more
// than some rows of a product.
inline int64_t groups(const Weights& w) {
  return w.bits == 0 ? 0 : w.columns >> __builtin_ctz(unsigned(w.group));
}

inline int64_t scratch_floats(const Weights& w) {
  return 2 * kMostColumns * groups(w);
}

const Kernels& kernels_portable();
#if defined(__x86_64__)
const Kernels& kernels_avx2();
const Kernels& kernels_avx512();
#endif

} // namespace roundhouse
