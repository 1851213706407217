// The inner loops for AVX-512 (F, BW, VL, DQ), sixteen numbers at a time, and with VNNI.
#include <immintrin.h>

#include "loops.h"

namespace roundhouse {
namespace {

// Where the numbers of `bits` width begin: for each of sixteen 32-bit lanes the
// two bytes that hold one, and how far to shift them.
template <int bits>
struct Places {
  alignas(64) int8_t bytes[64];
  alignas(64) int32_t shifts[16];

  constexpr Places() : bytes(), shifts() {
    for (int i = 0; i < 16; ++i) {
      int byte = i * bits / 8;
      int next = byte + 1 < 2 * bits ? byte + 1 : -1;
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

// Sixteen numbers of `bits` width as integers, above which lie bits of others.
template <int bits>
inline __m512i spread(const uint8_t* bytes) {
  if constexpr (bits == 2) {
    int word;
    __builtin_memcpy(&word, bytes, 4);
    const __m512i shifts = _mm512_set_epi32(
        30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    return _mm512_srlv_epi32(_mm512_set1_epi32(word), shifts);
  } else if constexpr (bits == 8) {
    return _mm512_cvtepu8_epi32(
        _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes)));
  } else {
    __m512i all;
    if constexpr (bits == 4) {
      long long word;
      __builtin_memcpy(&word, bytes, 8);
      all = _mm512_set1_epi64(word);
    } else {
      constexpr __mmask16 present = (1 << (2 * bits)) - 1;
      all = _mm512_broadcast_i32x4(_mm_maskz_loadu_epi8(present, bytes));
    }
    all = _mm512_shuffle_epi8(all, _mm512_load_si512(kPlaces<bits>.bytes));
    return _mm512_srlv_epi32(all, _mm512_load_si512(kPlaces<bits>.shifts));
  }
}

struct Simd {
  using Float = __m512;
  static constexpr int kWidth = 16;
  static constexpr int kSums = 24;
  static constexpr int64_t kMostStanding = 160;
  static constexpr int64_t kMostStandingExpanded = 256;

  static Float zero() {
    return _mm512_setzero_ps();
  }
  static Float same(float value) {
    return _mm512_set1_ps(value);
  }
  static Float load(const float* from) {
    return _mm512_loadu_ps(from);
  }
  static void store(float* to, Float value) {
    _mm512_storeu_ps(to, value);
  }
  static Float multiply_add(Float a, Float b, Float c) {
    return _mm512_fmadd_ps(a, b, c);
  }
  // Neighbouring vectors are folded into one again and again: each step halves
  // the numbers of a vector that belong to one sum.
  template <int n>
  static Float sums(const Float* vectors) {
    auto at = [&](int i) { return i < n ? vectors[i] : zero(); };
    Float quarters[4];
    for (int i = 0; i < 4; ++i) {
      quarters[i] = 4 * i < n
          ? fold_pairs(
                fold(at(4 * i), at(4 * i + 1)),
                fold(at(4 * i + 2), at(4 * i + 3)))
          : zero();
    }
    // Now lane i of each quarter holds, in its four blocks, parts of sum i.
    Float low = fold_blocks(quarters[0], quarters[1]);
    Float high = n > 8 ? fold_blocks(quarters[2], quarters[3]) : zero();
    return _mm512_add_ps(
        _mm512_shuffle_f32x4(low, high, 0x88),
        _mm512_shuffle_f32x4(low, high, 0xdd));
  }
  static Float fold(Float a, Float b) {
    return _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
  }
  static Float fold_pairs(Float a, Float b) {
    __m512d left = _mm512_castps_pd(a), right = _mm512_castps_pd(b);
    return _mm512_add_ps(
        _mm512_castpd_ps(_mm512_unpacklo_pd(left, right)),
        _mm512_castpd_ps(_mm512_unpackhi_pd(left, right)));
  }
  static Float fold_blocks(Float a, Float b) {
    return _mm512_add_ps(
        _mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
  }
  static Float half(const uint16_t* from) {
    return _mm512_cvtph_ps(
        _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
  }
  static Float brain(const uint16_t* from) {
    __m512i wide = _mm512_cvtepu16_epi32(
        _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
  }

  // Up to four bits: all values that a number can have, looked up. A lookup
  // takes the lowest four bits of its index, so the table repeats for fewer.
  template <int bits, bool small = (bits <= 4)>
  struct Table {
    __m512 values;

    void set(float scale, float bias) {
      constexpr int m = (1 << bits) - 1;
      const __m512 numbers = _mm512_set_ps(
          15 & m, 14 & m, 13 & m, 12 & m, 11 & m, 10 & m, 9 & m, 8 & m, 7 & m,
          6 & m, 5 & m, 4 & m, 3 & m, 2 & m, 1 & m, 0);
      values = _mm512_fmadd_ps(
          numbers, _mm512_set1_ps(scale), _mm512_set1_ps(bias));
    }
    Float load(const uint8_t* bytes) const {
      return _mm512_permutexvar_ps(spread<bits>(bytes), values);
    }
  };

  template <int bits>
  struct Table<bits, false> {
    __m512 scale;
    __m512 bias;

    void set(float new_scale, float new_bias) {
      scale = _mm512_set1_ps(new_scale);
      bias = _mm512_set1_ps(new_bias);
    }
    Float load(const uint8_t* bytes) const {
      __m512i numbers = spread<bits>(bytes);
      if constexpr (bits < 8) {
        numbers = _mm512_and_si512(numbers, _mm512_set1_epi32((1 << bits) - 1));
      }
      return _mm512_fmadd_ps(_mm512_cvtepi32_ps(numbers), scale, bias);
    }
  };
};

} // namespace
} // namespace roundhouse

#include "product_loops.h"

#include "activation_loops.h"

#include "attention_loops.h"

#include "integer_loops.h"

namespace roundhouse {

const Loops& loops_avx512() {
  return kLoops;
}

const Loops& loops_avx512_vnni() {
  static constexpr Loops with_integers = [] {
    Loops all = kLoops;
    all.integers = &kIntegerLoops;
    return all;
  }();
  return with_integers;
}

} // namespace roundhouse
