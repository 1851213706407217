// What is done to rows of float32 that lie one after the other, besides products
// and attention. The loops inside are in `loops.h`.
#pragma once

#include <cstdint>

#include "product.h"

namespace roundhouse {

// Each of `count` rows of `size` numbers by its root mean square, times the weight.
void norm_rows(
    const void* weight, Format format, float epsilon, int64_t size,
    const float* x, int64_t count, float* out);

// gate · sigmoid(gate) · up of `count` numbers.
void gate_numbers(const float* gate, const float* up, int64_t count, float* out);

// By how much the pairs of a row's heads turn: `half` cosines and sines for each
// row. Pairs are neighbours, or the halves of the first 2 · half numbers.
struct Angles {
  const float* cosines;
  const float* sines;
  int64_t half;
  bool neighbours;
};

// x and out [rows, heads, size].
void turn_rows(
    const Angles& angles, const float* x, int64_t rows, int64_t heads,
    int64_t size, float* out);

} // namespace roundhouse
