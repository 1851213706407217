// The product x · transpose(w) in float32, for weights that are packed, half
// width or full width. The formats and the choice between the ways to compute;
// the inner loops are in `product_loops.h`.
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

// The same in the calling thread, for some of the weight rows and few rows of x.
void product_of_rows(
    const Weights& w, int64_t first, int64_t last, const float* x,
    int64_t count, float* y);

// Groups in a row. A group is a power of two: a division here would cost more
// than some rows of a product.
inline int64_t groups(const Weights& w) {
  return w.bits == 0 ? 0 : w.columns >> __builtin_ctz(unsigned(w.group));
}

} // namespace roundhouse
