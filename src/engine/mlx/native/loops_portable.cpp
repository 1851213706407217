// The inner loops for any processor: plain arrays of eight numbers that the
// compiler turns into the vectors it has.
#include "loops.h"

namespace roundhouse {
namespace {

inline float from_bits(uint32_t bits) {
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}

// A float16 widened: exponent and mantissa moved into place, then scaled by the
// difference of the exponents' biases, which also makes subnormal numbers right.
// Infinity and NaN keep their exponent of all ones.
inline float half_to_float(uint16_t half) {
  uint32_t magnitude = half & 0x7fffu;
  float value = from_bits(magnitude << 13) * 0x1p112f;
  if (magnitude >= 0x7c00u) {
    value = from_bits((magnitude << 13) | 0x7f800000u);
  }
  return half & 0x8000u ? -value : value;
}

struct Simd {
  static constexpr int kWidth = 8;
  static constexpr int kKeysTogether = 4;
  static constexpr int kRowsTogether = 2;
  struct Float {
    float at[kWidth];
  };

  static Float zero() {
    return Float{};
  }
  static Float same(float value) {
    Float all;
    for (int i = 0; i < kWidth; ++i) {
      all.at[i] = value;
    }
    return all;
  }
  static Float load(const float* from) {
    Float value;
    __builtin_memcpy(value.at, from, sizeof value.at);
    return value;
  }
  static void store(float* to, Float value) {
    __builtin_memcpy(to, value.at, sizeof value.at);
  }
  static Float multiply_add(const Float& a, const Float& b, Float c) {
    for (int i = 0; i < kWidth; ++i) {
      c.at[i] += a.at[i] * b.at[i];
    }
    return c;
  }
  template <int n>
  static Float sums(const Float* vectors) {
    Float totals = zero();
    for (int i = 0; i < n; ++i) {
      for (int j = 0; j < kWidth; ++j) {
        totals.at[i] += vectors[i].at[j];
      }
    }
    return totals;
  }
  static Float half(const uint16_t* from) {
    Float value;
    for (int i = 0; i < kWidth; ++i) {
      value.at[i] = half_to_float(from[i]);
    }
    return value;
  }
  static Float brain(const uint16_t* from) {
    Float value;
    for (int i = 0; i < kWidth; ++i) {
      value.at[i] = from_bits(uint32_t(from[i]) << 16);
    }
    return value;
  }

  template <int bits>
  struct Table {
    float scale;
    float bias;

    void set(float new_scale, float new_bias) {
      scale = new_scale;
      bias = new_bias;
    }
    // Eight numbers are `bits` bytes; they are put together byte by byte, so
    // that the order of bytes in a word does not matter.
    Float load(const uint8_t* bytes) const {
      uint64_t word = 0;
      for (int i = 0; i < bits; ++i) {
        word |= uint64_t(bytes[i]) << (8 * i);
      }
      Float value;
      for (int i = 0; i < kWidth; ++i) {
        uint32_t number = uint32_t(word >> (i * bits)) & ((1u << bits) - 1);
        value.at[i] = float(number) * scale + bias;
      }
      return value;
    }
  };
};

} // namespace
} // namespace roundhouse

#include "product_loops.h"

#include "activation_loops.h"

#include "attention_loops.h"

namespace roundhouse {

const Loops& loops_portable() {
  return kLoops;
}

} // namespace roundhouse
