// Products of packed weights in whole numbers, for AVX-512 with VNNI: sixty-four
// products of an unsigned and a signed byte in one instruction.
//
// A group of x is split into whole numbers of 24 bits by its largest number, and each
// of those into three signed digits to the base 256. Weights are unsigned bytes as they
// are, so that scale · size · Σ q·(65536·d₂ + 256·d₁ + d₀) + bias · Σ x is what a group
// adds to a product. An x is off by at most a part in 16 million of the largest of its
// group, where in float32 it would be of itself. (llama.cpp's `ggml-quants.c` multiplies packed
// weights by whole numbers too, of one digit.)
//
// Included by `loops_avx512.cpp` only, behind its `Simd`.
#pragma once

#include <immintrin.h>

#include "loops.h"

// On each function that has these instructions: the file is compiled without them.
#define ROUNDHOUSE_VNNI __attribute__((target("avx512vnni")))

namespace roundhouse {
namespace {

// A digit has to lie within a byte when the rest has been rounded.
constexpr float kLargest = 8355000;

// A group whose largest number is beyond these is not split: below it its size has no
// exact inverse in float32, above it parts of a sum may be too large where the sum is not.
constexpr float kSmallest = 1e-25f;
constexpr float kGreatest = 1e25f;

constexpr int kDigits = 3;
constexpr int kVector = 64;

// Where things lie in a split row: for each vector of weights the digits of what it meets,
// the highest first (for 4 bits those of even places, which the low halves of bytes
// hold, before those of odd ones); then sizes of groups and sums of groups.
struct SplitRow {
  int64_t vectors;
  int64_t step;
  int64_t sizes;
  int64_t sums;
  int64_t bytes;

  explicit SplitRow(const Weights& w) {
    int64_t row = w.columns * w.bits / 8;
    vectors = (row + kVector - 1) / kVector;
    step = kDigits * kVector * 8 / w.bits;
    int64_t padded = (groups(w) + Simd::kWidth - 1) / Simd::kWidth * Simd::kWidth;
    sizes = vectors * step;
    sums = sizes + padded * int64_t(sizeof(float));
    bytes = sums + padded * int64_t(sizeof(float));
  }

  const float* sizes_of(const char* row) const {
    return reinterpret_cast<const float*>(row + sizes);
  }
  const float* sums_of(const char* row) const {
    return reinterpret_cast<const float*>(row + sums);
  }
};

int64_t split_bytes(const Weights& w) {
  bool whole = w.group == 32 || w.group == 64 || w.group == 128;
  return (w.bits == 4 || w.bits == 8) && whole ? SplitRow(w).bytes : 0;
}

// The lowest signed byte of each number; `numbers` becomes what is above it.
inline __m512i take_digit(__m512i& numbers) {
  __m512i digit = _mm512_srai_epi32(_mm512_slli_epi32(numbers, 24), 24);
  numbers = _mm512_srai_epi32(_mm512_sub_epi32(numbers, digit), 8);
  return digit;
}

// Puts the digits of sixteen whole numbers, from `column` on, into their places.
inline void put_digits(
    const Weights& w, const SplitRow& row, __m512i numbers, int64_t column,
    char* out) {
  const int64_t columns = kVector * 8 / w.bits;
  int64_t place = column % columns;
  char* at = out + column / columns * row.step;
  const int64_t plane = row.step / kDigits;
  for (int digit = kDigits - 1; digit >= 0; --digit) {
    __m128i bytes = _mm512_cvtepi32_epi8(take_digit(numbers));
    char* to = at + digit * plane;
    if (w.bits == 8) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to + place), bytes);
      continue;
    }
    __m128i halves = _mm_shuffle_epi8(
        bytes,
        _mm_setr_epi8(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(to + place / 2), halves);
    _mm_storel_epi64(
        reinterpret_cast<__m128i*>(to + kVector + place / 2),
        _mm_unpackhi_epi64(halves, halves));
  }
}

bool split(const Weights& w, const float* x, char* out) {
  const SplitRow row(w);
  __builtin_memset(out, 0, row.bytes);
  float* sizes = reinterpret_cast<float*>(out + row.sizes);
  float* sums = reinterpret_cast<float*>(out + row.sums);
  bool all = true;
  for (int64_t group = 0; group < groups(w); ++group) {
    const int64_t first = group * w.group;
    __m512 most = _mm512_setzero_ps(), sum = _mm512_setzero_ps();
    // Not a number wherever x is, or is infinite.
    __m512 odd = _mm512_setzero_ps();
    for (int64_t i = 0; i < w.group; i += Simd::kWidth) {
      __m512 numbers = _mm512_loadu_ps(x + first + i);
      most = _mm512_max_ps(most, _mm512_abs_ps(numbers));
      odd = _mm512_fmadd_ps(numbers, _mm512_setzero_ps(), odd);
      sum = _mm512_add_ps(sum, numbers);
    }
    const float largest = _mm512_reduce_max_ps(most);
    all &= _mm512_reduce_add_ps(odd) == 0;
    all &= largest == 0 || (largest >= kSmallest && largest <= kGreatest);
    sums[group] = _mm512_reduce_add_ps(sum);
    sizes[group] = largest / kLargest;
    if (!all || largest == 0) {
      continue;
    }
    const __m512 inverse = _mm512_set1_ps(kLargest / largest);
    for (int64_t i = 0; i < w.group; i += Simd::kWidth) {
      __m512 numbers = _mm512_loadu_ps(x + first + i);
      __m512i whole = _mm512_cvtps_epi32(_mm512_mul_ps(numbers, inverse));
      put_digits(w, row, whole, first + i, out);
    }
  }
  return all;
}

// Up to sixteen numbers of any format, and zeros: reads nothing beyond.
inline __m512 some(const void* data, Format format, int64_t index, __mmask16 which) {
  if (format == Format::float32) {
    return _mm512_maskz_loadu_ps(which, static_cast<const float*>(data) + index);
  }
  __m256i half = _mm256_maskz_loadu_epi16(
      which, static_cast<const uint16_t*>(data) + index);
  if (format == Format::float16) {
    return _mm512_cvtph_ps(half);
  }
  __m512i wide = _mm512_cvtepu16_epi32(half);
  return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

// What a vector of weights makes with the digits that it meets. Each lane adds up four
// bytes of weights, which with two digits above it stay below 2³¹.
template <int bits>
ROUNDHOUSE_VNNI inline __m512 meet(__m512i weights, const char* digits) {
  auto at = [&](int i) { return _mm512_load_si512(digits + i * kVector); };
  __m512i sum = _mm512_setzero_si512();
  if constexpr (bits == 4) {
    const __m512i mask = _mm512_set1_epi8(15);
    __m512i even = _mm512_and_si512(weights, mask);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi16(weights, 4), mask);
    sum = _mm512_dpbusd_epi32(sum, even, at(0));
    sum = _mm512_dpbusd_epi32(sum, odd, at(1));
    sum = _mm512_slli_epi32(sum, 8);
    sum = _mm512_dpbusd_epi32(sum, even, at(2));
    sum = _mm512_dpbusd_epi32(sum, odd, at(3));
    sum = _mm512_slli_epi32(sum, 8);
    sum = _mm512_dpbusd_epi32(sum, even, at(4));
    sum = _mm512_dpbusd_epi32(sum, odd, at(5));
    return _mm512_cvtepi32_ps(sum);
  } else {
    // With the third digit they would not.
    __m512i low = _mm512_dpbusd_epi32(sum, weights, at(2));
    sum = _mm512_dpbusd_epi32(sum, weights, at(0));
    sum = _mm512_dpbusd_epi32(_mm512_slli_epi32(sum, 8), weights, at(1));
    return _mm512_fmadd_ps(
        _mm512_cvtepi32_ps(sum), _mm512_set1_ps(256), _mm512_cvtepi32_ps(low));
  }
}

// `kColumns` rows of weights, `apart` from each other, against `kRows` split rows:
// sums[c · kRows + r].
template <int bits, int kRows, int kColumns>
ROUNDHOUSE_VNNI inline void integer_tile(
    const Weights& w, const SplitRow& layout, int64_t first, int64_t apart,
    const char* split, __m512* sums) {
  // Bytes that are asked for ahead of their use.
  constexpr int kAhead = 2048;
  const int64_t count = groups(w), bytes = w.columns * bits / 8;
  const int shift = __builtin_ctz(unsigned(w.group));
  const __mmask64 last = ~0ull >> (layout.vectors * kVector - bytes);
  // The group of each lane, of four bytes, beside that of the first.
  const __m512i lanes = _mm512_srli_epi32(
      _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0),
      unsigned(shift) + __builtin_ctz(bits) - 5);
  const uint8_t* packed[kColumns];
  for (int c = 0; c < kColumns; ++c) {
    packed[c] = static_cast<const uint8_t*>(w.data) + (first + c * apart) * bytes;
  }
  for (int i = 0; i < kColumns * kRows; ++i) {
    sums[i] = _mm512_setzero_ps();
  }
  int64_t vector = 0;
  for (int64_t group = 0; group < count; group += Simd::kWidth) {
    const __mmask16 there = count - group >= Simd::kWidth
        ? __mmask16(0xffff)
        : __mmask16((1u << (count - group)) - 1);
    __m512 scales[kColumns];
    for (int c = 0; c < kColumns; ++c) {
      const int64_t index = (first + c * apart) * count + group;
      scales[c] = some(w.scales, w.format, index, there);
      __m512 biases = some(w.biases, w.format, index, there);
      for (int r = 0; r < kRows; ++r) {
        const float* of_x = layout.sums_of(split + r * layout.bytes) + group;
        __m512& sum = sums[c * kRows + r];
        sum = _mm512_fmadd_ps(biases, _mm512_load_ps(of_x), sum);
      }
    }
    const int64_t end = (group + Simd::kWidth) << shift;
    for (; vector < layout.vectors && vector * kVector * 8 / bits < end; ++vector) {
      const int64_t at = vector * kVector;
      const __m512i which = _mm512_add_epi32(
          lanes, _mm512_set1_epi32(int((at * 8 / bits >> shift) - group)));
      __m512i weights[kColumns];
      __m512 scale[kColumns];
      for (int c = 0; c < kColumns; ++c) {
        __builtin_prefetch(packed[c] + at + kAhead);
        weights[c] = vector + 1 < layout.vectors
            ? _mm512_loadu_si512(packed[c] + at)
            : _mm512_maskz_loadu_epi8(last, packed[c] + at);
        scale[c] = _mm512_permutexvar_ps(which, scales[c]);
      }
      for (int r = 0; r < kRows; ++r) {
        const char* row = split + r * layout.bytes;
        const __m512 size = _mm512_permutexvar_ps(
            which, _mm512_load_ps(layout.sizes_of(row) + group));
        for (int c = 0; c < kColumns; ++c) {
          __m512 met = meet<bits>(weights[c], row + vector * layout.step);
          __m512& sum = sums[c * kRows + r];
          sum = _mm512_fmadd_ps(_mm512_mul_ps(met, size), scale[c], sum);
        }
      }
    }
  }
}

template <int bits, int kRows>
ROUNDHOUSE_VNNI void integer_rows(
    const Weights& w, int64_t first, int64_t last, const char* split, float* y) {
  // Read as four streams far apart, as the memory likes it. More of them are slower.
  constexpr int kColumns = kRows == 1 ? 4 : 2;
  // Sums are added up together, as many as fill a vector.
  constexpr int kTiles = Simd::kWidth / (kRows * kColumns);
  const SplitRow layout(w);
  __m512 sums[Simd::kWidth];
  for (auto& sum : sums) {
    sum = Simd::zero();
  }
  auto put = [&](int64_t row, int tiles, int columns, int64_t apart) {
    alignas(64) float totals[Simd::kWidth];
    Simd::store(totals, Simd::template sums<Simd::kWidth>(sums));
    const float* total = totals;
    for (int t = 0; t < tiles; ++t) {
      for (int c = 0; c < columns; ++c) {
        for (int r = 0; r < kRows; ++r) {
          y[r * w.rows + row + t + c * apart] = *total++;
        }
      }
    }
  };
  const int64_t apart = (last - first) / (kColumns * kTiles) * kTiles;
  for (int64_t i = 0; i < apart; i += kTiles) {
    for (int t = 0; t < kTiles; ++t) {
      integer_tile<bits, kRows, kColumns>(
          w, layout, first + i + t, apart, split, sums + t * kColumns * kRows);
    }
    put(first + i, kTiles, kColumns, apart);
  }
  for (first += apart * kColumns; first < last; ++first) {
    integer_tile<bits, kRows, 1>(w, layout, first, 1, split, sums);
    put(first, 1, 1, 1);
  }
}

template <int bits>
void integer_rows_of(
    const Weights& w, int64_t first, int64_t last, const char* split, int count,
    float* y) {
  switch (count) {
    case 1:
      return integer_rows<bits, 1>(w, first, last, split, y);
    case 2:
      return integer_rows<bits, 2>(w, first, last, split, y);
    case 3:
      return integer_rows<bits, 3>(w, first, last, split, y);
    case 4:
      return integer_rows<bits, 4>(w, first, last, split, y);
    case 8:
      return integer_rows<bits, 8>(w, first, last, split, y);
  }
}

void few_integer_rows(
    const Weights& w, int64_t first, int64_t last, const char* split, int count,
    float* y) {
  return w.bits == 4 ? integer_rows_of<4>(w, first, last, split, count, y)
                     : integer_rows_of<8>(w, first, last, split, count, y);
}

constexpr IntegerLoops kIntegerLoops = {split_bytes, split, few_integer_rows};

} // namespace
} // namespace roundhouse
