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

// The inner loops for one instruction set. `scratch` holds at least
// `scratch_floats(w)` numbers.
struct Kernels {
  // Weight rows first..last against at most `kMostRows` rows of x.
  void (*few_rows)(
      const Weights& w, int64_t first, int64_t last, const float* x, int count,
      float* y, float* scratch);
  // Writes weight rows first..last out as float32.
  void (*expand)(
      const Weights& w, int64_t first, int64_t last, float* out,
      float* scratch);
};

constexpr int kMostRows = 8;
// How many weight rows the inner loops take at a time, at most.
constexpr int kMostColumns = 8;

inline int64_t scratch_floats(const Weights& w) {
  return w.bits == 0 ? 0 : 2 * kMostColumns * (w.columns / w.group);
}

const Kernels& kernels_portable();
#if defined(__x86_64__)
const Kernels& kernels_avx2();
const Kernels& kernels_avx512();
#endif

} // namespace roundhouse
