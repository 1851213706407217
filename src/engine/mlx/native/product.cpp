// Which way a product is computed, and by how many threads.
#include "product.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "blas.h"
#include "threads.h"

namespace roundhouse {
namespace {

// Rows from which on it is faster to write the weights out as float32, a panel
// at a time, and to let OpenBLAS multiply.
constexpr int64_t kPanelRows = 24;

// Bytes of a panel: it shall stay in the second-level cache between being
// written and being read.
constexpr int64_t kPanelBytes = 512 * 1024;

// Multiplications below which another thread is not worth waking.
constexpr int64_t kWorthSharing = 1 << 18;

const Kernels& choose() {
  // For tests and measurements: the best instruction set that may be used.
  const char* limit = std::getenv("ROUNDHOUSE_CPU");
  auto allowed = [&](const char* name) {
    return limit == nullptr || std::strcmp(limit, name) == 0;
  };
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (allowed("avx512") && __builtin_cpu_supports("avx512f") &&
      __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512dq")) {
    return kernels_avx512();
  }
  if (allowed("avx2") && __builtin_cpu_supports("avx2") &&
      __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")) {
    return kernels_avx2();
  }
#endif
  (void)allowed;
  return kernels_portable();
}

const Kernels& kernels() {
  static const Kernels& chosen = choose();
  return chosen;
}

using Buffer = std::unique_ptr<float[]>;

Buffer buffer(int64_t floats) {
  return Buffer(new float[std::max<int64_t>(floats, 1)]);
}

void in_rows(
    const Weights& w, int64_t first, int64_t last, const float* x,
    int64_t count, float* y) {
  Buffer scratch = buffer(scratch_floats(w));
  for (int64_t row = 0; row < count; row += kMostRows) {
    int rows = int(std::min<int64_t>(kMostRows, count - row));
    kernels().few_rows(
        w, first, last, x + row * w.columns, rows, y + row * w.rows,
        scratch.get());
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
    kernels().expand(w, row, end, panel.get(), scratch.get());
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
  auto way = count < kPanelRows ? in_rows : in_panels;
  if (count * w.rows * w.columns < kWorthSharing) {
    way(w, 0, w.rows, x, count, y);
    return;
  }
  in_parallel(w.rows, kMostColumns, [&](int64_t first, int64_t last) {
    way(w, first, last, x, count, y);
  });
}

} // namespace roundhouse
