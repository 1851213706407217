// The inner loops for AVX2 with FMA and F16C, eight numbers at a time.
#include <immintrin.h>

#include "loops.h"

namespace roundhouse {
namespace {

// As in `loops_avx512.cpp`, for eight lanes, each 128-bit half of which sees
// the same bytes.
template <int bits>
struct Places {
  alignas(32) int8_t bytes[32];
  alignas(32) int32_t shifts[8];

  constexpr Places() : bytes(), shifts() {
    for (int i = 0; i < 8; ++i) {
      int byte = i * bits / 8;
      int next = byte + 1 < bits ? byte + 1 : -1;
      bytes[4 * i] = int8_t(byte);
      bytes[4 * i + 1] = int8_t(next);
      bytes[4 * i + 2] = -1;
      bytes[4 * i + 3] = -1;
      shifts[i] = i * bits % 8;
    }
  }
};

template <int bits>
constexpr Places<bits> kPlaces;

struct Simd {
  using Float = __m256;
  static constexpr int kWidth = 8;
  static constexpr int kSums = 12;
  static constexpr int64_t kMostStanding = 96;
  static constexpr int64_t kMostStandingExpanded = 112;

  static Float zero() {
    return _mm256_setzero_ps();
  }
  static Float same(float value) {
    return _mm256_set1_ps(value);
  }
  static Float load(const float* from) {
    return _mm256_loadu_ps(from);
  }
  static void store(float* to, Float value) {
    _mm256_storeu_ps(to, value);
  }
  static Float multiply_add(Float a, Float b, Float c) {
    return _mm256_fmadd_ps(a, b, c);
  }
  template <int n>
  static Float sums(const Float* vectors) {
    auto at = [&](int i) { return i < n ? vectors[i] : zero(); };
    Float low = _mm256_hadd_ps(
        _mm256_hadd_ps(at(0), at(1)), _mm256_hadd_ps(at(2), at(3)));
    Float high = n <= 4 ? zero()
                        : _mm256_hadd_ps(
                              _mm256_hadd_ps(at(4), at(5)),
                              _mm256_hadd_ps(at(6), at(7)));
    return _mm256_add_ps(
        _mm256_permute2f128_ps(low, high, 0x20),
        _mm256_permute2f128_ps(low, high, 0x31));
  }
  static Float half(const uint16_t* from) {
    return _mm256_cvtph_ps(
        _mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  }
  static Float brain(const uint16_t* from) {
    __m256i wide = _mm256_cvtepu16_epi32(
        _mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
  }

  template <int bits>
  struct Table {
    __m256 scale;
    __m256 bias;

    void set(float new_scale, float new_bias) {
      scale = _mm256_set1_ps(new_scale);
      bias = _mm256_set1_ps(new_bias);
    }
    Float load(const uint8_t* bytes) const {
      __m256i numbers;
      if constexpr (bits == 8) {
        numbers = _mm256_cvtepu8_epi32(
            _mm_loadl_epi64(reinterpret_cast<const __m128i*>(bytes)));
      } else {
        long long word = 0;
        __builtin_memcpy(&word, bytes, bits);
        numbers = _mm256_shuffle_epi8(
            _mm256_set1_epi64x(word),
            _mm256_load_si256(
                reinterpret_cast<const __m256i*>(kPlaces<bits>.bytes)));
        numbers = _mm256_srlv_epi32(
            numbers,
            _mm256_load_si256(
                reinterpret_cast<const __m256i*>(kPlaces<bits>.shifts)));
        numbers = _mm256_and_si256(numbers, _mm256_set1_epi32((1 << bits) - 1));
      }
      return _mm256_fmadd_ps(_mm256_cvtepi32_ps(numbers), scale, bias);
    }
  };
};

} // namespace
} // namespace roundhouse

#include "product_loops.h"

#include "activation_loops.h"

#include "attention_loops.h"

namespace roundhouse {

const Loops& loops_avx2() {
  return kLoops;
}

} // namespace roundhouse
