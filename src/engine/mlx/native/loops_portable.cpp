// The inner loops for any processor: eight numbers at a time, in which the compiler uses the
// vectors that it has.
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
  static constexpr int kSums = 6;
  static constexpr int64_t kMostStanding = 31;
  static constexpr int64_t kMostStandingExpanded = 31;
  // GCC's and Clang's own vectors stay in registers where arrays would not, if they are no
  // wider than those.
  typedef float Half __attribute__((vector_size(16)));
  struct Float {
    Half low;
    Half high;
  };

  static Float zero() {
    return Float{};
  }
  static Float same(float value) {
    return {Half{} + value, Half{} + value};
  }
  static Float load(const float* from) {
    Float value;
    __builtin_memcpy(&value, from, sizeof value);
    return value;
  }
  static void store(float* to, const Float& value) {
    __builtin_memcpy(to, &value, sizeof value);
  }
  static Float multiply_add(const Float& a, const Float& b, const Float& c) {
    return {a.low * b.low + c.low, a.high * b.high + c.high};
  }
  template <int n>
  static Float sums(const Float* vectors) {
    float totals[kWidth] = {};
    for (int i = 0; i < n; ++i) {
      Half both = vectors[i].low + vectors[i].high;
      totals[i] = (both[0] + both[2]) + (both[1] + both[3]);
    }
    return load(totals);
  }
  static Float half(const uint16_t* from) {
    float value[kWidth];
    for (int i = 0; i < kWidth; ++i) {
      value[i] = half_to_float(from[i]);
    }
    return load(value);
  }
  static Float brain(const uint16_t* from) {
    float value[kWidth];
    for (int i = 0; i < kWidth; ++i) {
      value[i] = from_bits(uint32_t(from[i]) << 16);
    }
    return load(value);
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
      auto number = [&](int i) {
        return float(uint32_t(word >> (i * bits)) & ((1u << bits) - 1));
      };
      Half low{number(0), number(1), number(2), number(3)};
      Half high{number(4), number(5), number(6), number(7)};
      return {low * scale + bias, high * scale + bias};
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
