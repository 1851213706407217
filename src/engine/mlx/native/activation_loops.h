// The inner loops between the products, written so that the compiler turns them
// into the vectors it has: no branches, sums in several parts.
//
// Included by `loops_*.cpp` only, after `product_loops.h`; the same rules hold.
#pragma once

namespace roundhouse {
namespace {

// Independent parts of a sum or a maximum.
constexpr int kParts = 16;

// e^x within two units of the last place; 0 or a number next to it below -87.
//
// x = n·ln 2 + r with |r| at most half of ln 2, e^r by a polynomial (the one of
// the Cephes library's expf), 2^n through the exponent's bits. Adding 1.5·2^23
// rounds to an integer, which then stands in the lowest bits.
inline float exponential(float x) {
  constexpr float kRound = 12582912.0f;
  x = x > 88.0f ? 88.0f : x;
  x = x < -87.0f ? -87.0f : x;
  float rounded = x * 1.44269504088896341f + kRound;
  float n = rounded - kRound;
  float r = x - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  int32_t power = __builtin_bit_cast(int32_t, rounded) -
      __builtin_bit_cast(int32_t, kRound);
  return p * __builtin_bit_cast(float, (power + 127) << 23);
}

void swiglu(const float* gate, const float* up, int64_t count, float* out) {
  for (int64_t i = 0; i < count; ++i) {
    out[i] = gate[i] / (1.0f + exponential(-gate[i])) * up[i];
  }
}

void rms_norm(
    const float* x, const float* weight, float epsilon, int64_t size,
    float* out) {
  float parts[kParts] = {};
  int64_t whole = size / kParts * kParts;
  for (int64_t i = 0; i < whole; i += kParts) {
    for (int j = 0; j < kParts; ++j) {
      parts[j] += x[i + j] * x[i + j];
    }
  }
  float total = 0;
  for (float part : parts) {
    total += part;
  }
  for (int64_t i = whole; i < size; ++i) {
    total += x[i] * x[i];
  }
  float factor = 1.0f / __builtin_sqrtf(total / float(size) + epsilon);
  for (int64_t i = 0; i < size; ++i) {
    out[i] = x[i] * factor * weight[i];
  }
}

void softmax(float* numbers, int64_t count) {
  float most[kParts];
  for (float& part : most) {
    part = numbers[0];
  }
  int64_t whole = count / kParts * kParts;
  for (int64_t i = 0; i < whole; i += kParts) {
    for (int j = 0; j < kParts; ++j) {
      most[j] = numbers[i + j] > most[j] ? numbers[i + j] : most[j];
    }
  }
  float largest = most[0];
  for (float part : most) {
    largest = part > largest ? part : largest;
  }
  for (int64_t i = whole; i < count; ++i) {
    largest = numbers[i] > largest ? numbers[i] : largest;
  }
  float parts[kParts] = {};
  for (int64_t i = 0; i < whole; i += kParts) {
    for (int j = 0; j < kParts; ++j) {
      numbers[i + j] = exponential(numbers[i + j] - largest);
      parts[j] += numbers[i + j];
    }
  }
  float total = 0;
  for (float part : parts) {
    total += part;
  }
  for (int64_t i = whole; i < count; ++i) {
    numbers[i] = exponential(numbers[i] - largest);
    total += numbers[i];
  }
  float factor = 1.0f / total;
  for (int64_t i = 0; i < count; ++i) {
    numbers[i] *= factor;
  }
}

// `kRows` rows of shares against kVectors vectors of each value.
template <int kRows, int kVectors>
inline void weigh_part(
    const float* shares, const float* values, int64_t count, int64_t size,
    float* out) {
  Simd::Float sums[kRows][kVectors];
  for (auto& row : sums) {
    for (auto& sum : row) {
      sum = Simd::zero();
    }
  }
  for (int64_t t = 0; t < count; ++t) {
    for (int v = 0; v < kVectors; ++v) {
      Simd::Float value = Simd::load(values + t * size + v * Simd::kWidth);
      for (int r = 0; r < kRows; ++r) {
        Simd::Float share = Simd::same(shares[r * count + t]);
        sums[r][v] = Simd::multiply_add(share, value, sums[r][v]);
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVectors; ++v) {
      Simd::store(out + r * size + v * Simd::kWidth, sums[r][v]);
    }
  }
}

template <int kRows>
inline void weigh_rows(
    const float* shares, const float* values, int64_t count, int64_t size,
    float* out) {
  int64_t done = 0;
  for (; done + 4 * Simd::kWidth <= size; done += 4 * Simd::kWidth) {
    weigh_part<kRows, 4>(shares, values + done, count, size, out + done);
  }
  for (; done + Simd::kWidth <= size; done += Simd::kWidth) {
    weigh_part<kRows, 1>(shares, values + done, count, size, out + done);
  }
  for (; done < size; ++done) {
    for (int r = 0; r < kRows; ++r) {
      float total = 0;
      for (int64_t t = 0; t < count; ++t) {
        total += shares[r * count + t] * values[t * size + done];
      }
      out[r * size + done] = total;
    }
  }
}

void weigh(
    const float* shares, int64_t rows, const float* values, int64_t count,
    int64_t size, float* out) {
  int64_t done = 0;
  for (; done + 3 <= rows; done += 3) {
    weigh_rows<3>(shares + done * count, values, count, size, out + done * size);
  }
  for (; done < rows; ++done) {
    weigh_rows<1>(shares + done * count, values, count, size, out + done * size);
  }
}

void widen_from_start(
    const void* data, Format format, int64_t count, float* out) {
  widen_all(data, format, 0, count, out);
}

} // namespace
} // namespace roundhouse
