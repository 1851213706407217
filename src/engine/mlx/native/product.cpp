// Which way a product is computed, and by how many threads.
#include "product.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <new>

#include "blas.h"
#include "loops.h"
#include "threads.h"

namespace roundhouse {
namespace {

// Rows of x from which on it is faster to write the weights out as float32, a
// panel at a time, and to let OpenBLAS multiply. Measured; the inner loops of our
// own are at their best while some rows of x stay in the first-level cache.
int64_t panel_rows(const Weights& w) {
  bool narrow = w.columns <= 2048;
  return w.bits == 0 && w.format == Format::float32 ? (narrow ? 32 : 16)
                                                    : (narrow ? 64 : 32);
}

// Bytes of a panel: it shall stay in the second-level cache between being
// written and being read.
constexpr int64_t kPanelBytes = 512 * 1024;

// Weight rows that stay in the cache while all rows of x meet them.
constexpr int64_t kWeightRows = 64;

// Multiplications below which another thread is not worth waking.
constexpr int64_t kWorthSharing = 1 << 18;

// At the start of a cache line: vectors that lie across two cost a second load each.
constexpr std::align_val_t kLine{64};

struct Release {
  void operator()(float* numbers) const {
    ::operator delete[](numbers, kLine);
  }
};
using Buffer = std::unique_ptr<float[], Release>;

Buffer buffer(int64_t floats) {
  return Buffer(new (kLine) float[std::max<int64_t>(floats, 1)]);
}

// How many of `left` rows of x are taken together.
int together(int64_t left) {
  return left >= 8 ? 8 : left >= 4 ? 4 : int(left);
}

// All rows of x in slices, group by group, as `Loops::few_rows` wants them.
Buffer in_slices(const float* x, int64_t count, int64_t columns) {
  Buffer slices = buffer(count * columns);
  int64_t whole = columns / kSlice * kSlice;
  for (int64_t row = 0; row < count;) {
    int rows = together(count - row);
    float* to = slices.get() + row * columns;
    for (int64_t k = 0; k < whole; k += kSlice) {
      for (int r = 0; r < rows; ++r, to += kSlice) {
        std::memcpy(to, x + (row + r) * columns + k, kSlice * sizeof(float));
      }
    }
    row += rows;
  }
  return slices;
}

void in_slices_of_rows(
    const Weights& w, int64_t first, int64_t last, const float* x,
    const float* slices, int64_t count, float* y) {
  Buffer scratch = buffer(scratch_floats(w));
  // Only weights that are used again are worth keeping near.
  const int64_t height = together(count) == count ? last - first : kWeightRows;
  for (int64_t from = first; from < last; from += height) {
    int64_t to = std::min(from + height, last);
    for (int64_t row = 0; row < count;) {
      int rows = together(count - row);
      loops().few_rows(
          w, from, to, x + row * w.columns, slices + row * w.columns, rows,
          y + row * w.rows, scratch.get());
      row += rows;
    }
  }
}

void multiply(
    const float* weights, int64_t height, const Weights& w, const float* x,
    int64_t count, float* y) {
  blas_sgemm_alone(
      kRowMajor, kNoTranspose, kTranspose, int(count), int(height),
      int(w.columns), 1, x, int(w.columns), weights, int(w.columns), 0, y,
      int(w.rows));
}

void in_panels(
    const Weights& w, int64_t first, int64_t last, const float* x,
    int64_t count, float* y) {
  if (w.bits == 0 && w.format == Format::float32) {
    const float* weights = static_cast<const float*>(w.data);
    multiply(weights + first * w.columns, last - first, w, x, count, y + first);
    return;
  }
  int64_t height = kPanelBytes / int64_t(sizeof(float)) / w.columns;
  height = std::min(std::max<int64_t>(height, 16), last - first);
  Buffer scratch = buffer(scratch_floats(w));
  Buffer panel = buffer(height * w.columns);
  for (int64_t row = first; row < last; row += height) {
    int64_t end = std::min(row + height, last);
    loops().expand(w, row, end, panel.get(), scratch.get());
    multiply(panel.get(), end - row, w, x, count, y + row);
  }
}

} // namespace

void product(const Weights& w, const float* x, int64_t count, float* y) {
  if (count == 0 || w.rows == 0) {
    return;
  }
  if (w.columns == 0) {
    std::fill(y, y + count * w.rows, 0.0f);
    return;
  }
  // With one row, x is its own slices.
  bool panels = count >= panel_rows(w);
  Buffer sliced;
  if (!panels && count > 1) {
    sliced = in_slices(x, count, w.columns);
  }
  const float* slices = count > 1 ? sliced.get() : x;
  auto part = [&](int64_t first, int64_t last) {
    if (panels) {
      in_panels(w, first, last, x, count, y);
    } else {
      in_slices_of_rows(w, first, last, x, slices, count, y);
    }
  };
  if (count * w.rows * w.columns < kWorthSharing) {
    part(0, w.rows);
  } else {
    in_parallel(w.rows, kMostColumns, part);
  }
}

void product_of_rows(
    const Weights& w, int64_t first, int64_t last, const float* x,
    int64_t count, float* y) {
  Buffer sliced;
  if (count > 1) {
    sliced = in_slices(x, count, w.columns);
  }
  const float* slices = count > 1 ? sliced.get() : x;
  in_slices_of_rows(w, first, last, x, slices, count, y);
}

} // namespace roundhouse
