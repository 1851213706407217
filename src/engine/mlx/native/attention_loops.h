// The inner loops of attention of several rows, besides the product with its keys: scores
// have a line for each key and a column for each query, so that nothing is added up across
// a vector and values are taken as they lie.
//
// Included by `loops_*.cpp` only, after `activation_loops.h`; the same rules hold.
#pragma once

namespace roundhouse {
namespace {

// Values that stay in the first-level cache while all rows of shares meet them.
constexpr int64_t kNear = 64;

void soften(
    float* scores, int64_t count, int64_t lanes, float* largest,
    float* totals) {
  for (int64_t lane = 0; lane < lanes; lane += kLanes) {
    float most[kLanes];
    for (int j = 0; j < kLanes; ++j) {
      most[j] = scores[lane + j];
    }
    for (int64_t t = 1; t < count; ++t) {
      const float* line = scores + t * lanes + lane;
      for (int j = 0; j < kLanes; ++j) {
        most[j] = line[j] > most[j] ? line[j] : most[j];
      }
    }
    float sums[kLanes] = {};
    for (int64_t t = 0; t < count; ++t) {
      float* line = scores + t * lanes + lane;
      for (int j = 0; j < kLanes; ++j) {
        line[j] = exponential(line[j] - most[j]);
        sums[j] += line[j];
      }
    }
    for (int j = 0; j < kLanes; ++j) {
      largest[lane + j] = most[j];
      totals[lane + j] = sums[j];
    }
  }
}

// `kRows` columns of shares against kVectors vectors of each value.
template <int kRows, int kVectors>
inline void gather_part(
    const float* shares, int64_t lanes, const float* values, int64_t count,
    int64_t size, float* out) {
  Simd::Float sums[kRows][kVectors];
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVectors; ++v) {
      sums[r][v] = Simd::load(out + r * size + v * Simd::kWidth);
    }
  }
  for (int64_t t = 0; t < count; ++t) {
    Simd::Float value[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      value[v] = Simd::load(values + t * size + v * Simd::kWidth);
    }
    for (int r = 0; r < kRows; ++r) {
      Simd::Float share = Simd::same(shares[t * lanes + r]);
      for (int v = 0; v < kVectors; ++v) {
        sums[r][v] = Simd::multiply_add(share, value[v], sums[r][v]);
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVectors; ++v) {
      Simd::store(out + r * size + v * Simd::kWidth, sums[r][v]);
    }
  }
}

template <int kVectors>
inline void gather_rows(
    const float* shares, int64_t lanes, int64_t rows, const float* values,
    int64_t count, int64_t size, float* out) {
  constexpr int kTogether = Simd::kSums / kVectors;
  int64_t done = 0;
  for (; done + kTogether <= rows; done += kTogether) {
    gather_part<kTogether, kVectors>(
        shares + done, lanes, values, count, size, out + done * size);
  }
  for (; done < rows; ++done) {
    gather_part<1, kVectors>(
        shares + done, lanes, values, count, size, out + done * size);
  }
}

void gather(
    const float* shares, int64_t lanes, int64_t rows, const float* values,
    int64_t count, int64_t size, float* out) {
  for (int64_t first = 0; first < count; first += kNear) {
    int64_t now = first + kNear < count ? kNear : count - first;
    const float* with = shares + first * lanes;
    const float* from = values + first * size;
    int64_t done = 0;
    for (; done + 4 * Simd::kWidth <= size; done += 4 * Simd::kWidth) {
      gather_rows<4>(with, lanes, rows, from + done, now, size, out + done);
    }
    for (; done + Simd::kWidth <= size; done += Simd::kWidth) {
      gather_rows<1>(with, lanes, rows, from + done, now, size, out + done);
    }
    for (; done < size; ++done) {
      for (int64_t r = 0; r < rows; ++r) {
        float total = out[r * size + done];
        for (int64_t t = 0; t < now; ++t) {
          total += with[t * lanes + r] * from[t * size + done];
        }
        out[r * size + done] = total;
      }
    }
  }
}

constexpr Loops kLoops = {
    few_rows,
    expand,
    swiglu,
    rms_norm,
    softmax,
    weigh,
    by_columns,
    soften,
    gather,
    widen_from_start,
    Simd::kMostStanding,
    Simd::kMostStandingExpanded,
    nullptr};

} // namespace
} // namespace roundhouse
