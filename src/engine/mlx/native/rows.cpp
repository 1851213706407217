#include "rows.h"

#include <algorithm>
#include <stdexcept>
#include <vector>

#include "loops.h"
#include "threads.h"

namespace roundhouse {
namespace {

// Numbers for which waking another thread is worth it.
constexpr int64_t kShare = 1 << 15;

} // namespace

void take_rows(
    const Weights& w, const uint32_t* indices, int64_t count, float* out) {
  if (std::any_of(indices, indices + count, [&](uint32_t index) {
        return int64_t(index) >= w.rows;
      })) {
    throw std::out_of_range("the matrix has no such row");
  }
  int64_t together = std::max<int64_t>(1, kShare / std::max<int64_t>(1, w.columns));
  in_parallel(count, together, [&](int64_t first, int64_t last) {
    std::vector<float> scratch(scratch_floats(w));
    for (int64_t i = first; i < last; ++i) {
      int64_t row = indices[i];
      loops().expand(w, row, row + 1, out + i * w.columns, scratch.data());
    }
  });
}

void norm_rows(
    const void* weight, Format format, float epsilon, int64_t size,
    const float* x, int64_t count, float* out) {
  std::vector<float> wide;
  const float* factors = static_cast<const float*>(weight);
  if (format != Format::float32) {
    wide.resize(size);
    loops().widen(weight, format, size, wide.data());
    factors = wide.data();
  }
  for (int64_t row = 0; row < count; ++row) {
    loops().rms_norm(
        x + row * size, factors, epsilon, size, out + row * size);
  }
}

void gate_numbers(
    const float* gate, const float* up, int64_t count, float* out) {
  in_parallel(count, kShare, [&](int64_t first, int64_t last) {
    loops().swiglu(gate + first, up + first, last - first, out + first);
  });
}

void turn_rows(
    const Angles& angles, const float* x, int64_t rows, int64_t heads,
    int64_t size, float* out) {
  int64_t half = angles.half;
  int64_t next = angles.neighbours ? 1 : half;
  int64_t stride = angles.neighbours ? 2 : 1;
  for (int64_t row = 0; row < rows; ++row) {
    const float* cosine = angles.cosines + row * half;
    const float* sine = angles.sines + row * half;
    for (int64_t head = 0; head < heads; ++head) {
      const float* from = x + (row * heads + head) * size;
      float* to = out + (row * heads + head) * size;
      for (int64_t i = 0; i < half; ++i) {
        float a = from[i * stride], b = from[i * stride + next];
        to[i * stride] = a * cosine[i] - b * sine[i];
        to[i * stride + next] = a * sine[i] + b * cosine[i];
      }
      std::copy(from + 2 * half, from + size, to + 2 * half);
    }
  }
}

} // namespace roundhouse
