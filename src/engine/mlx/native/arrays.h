// From MLX's arrays to the numbers in them: what `primitives.cpp` and `chain.cpp`
// have in common. Nothing here computes.
#pragma once

#include <cstdint>
#include <vector>

#include "mlx/array.h"
#include "mlx/stream.h"
#include "product.h"

namespace roundhouse {

using Arrays = std::vector<mlx::core::array>;

// Throws `message` unless `condition` holds.
void require(bool condition, const char* message);

// Throws unless `x` is float32 of at least so many dimensions.
void require_float32(
    const mlx::core::array& x, size_t least, const char* message);

// Throws where numbers are in no format that weights may have.
Format format_of(const mlx::core::array& array);

// The stream that all of this runs in.
mlx::core::Stream cpu_stream();

// Whether the numbers are there, one after the other.
bool is_in_order(const mlx::core::array& array);

// Weights are stored whole; anything else (a slice, a transposition) is brought
// into order first.
mlx::core::array in_order(const mlx::core::array& weight);

// The numbers of x one after the other: in place where they lie so, else copied.
struct Rows {
  std::vector<float> copy;
  const float* data;

  explicit Rows(const mlx::core::array& x);
};

// A matrix [rows, columns] in the arrays that it is stored in, in order: one, or
// words, scales and biases.
struct Matrix {
  Arrays arrays;
  int rows;
  int columns;
  int bits = 0;
  int group = 0;
};

// Both throw where shapes or formats do not fit a product with rows of `columns`.
Matrix dense_matrix(const mlx::core::array& w, int columns);
Matrix packed_matrix(
    const mlx::core::array& words, const mlx::core::array& scales,
    const mlx::core::array& biases, int columns, int group, int bits);

// Its numbers, once the arrays are there.
Weights weights_of(const Matrix& matrix);

} // namespace roundhouse
