#include "rows.h"

#include <algorithm>
#include <vector>

#include "loops.h"
#include "threads.h"

namespace roundhouse {
namespace {

// Numbers for which waking another thread is worth it.
constexpr int64_t kShare = 1 << 15;

} // namespace

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
