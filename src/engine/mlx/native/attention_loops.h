// The inner loops of attention of several rows: scores stand, a line for each key and a
// column for each query, so that nothing is added up across a vector and neither keys
// nor values are rearranged.
//
// Included by `loops_*.cpp` only, after `activation_loops.h`; the same rules hold. Of Simd
// it uses `kKeysTogether` and `kRowsTogether` as well: how many keys, or rows of answers,
// leave the registers room for their sums.
#pragma once

namespace roundhouse {
namespace {

// Keys or values that stay in the first-level cache while all queries meet them.
constexpr int64_t kNear = 64;

// `kKeys` keys against kVectors vectors of columns.
template <int kKeys, int kVectors>
inline void score_part(
    const float* columns, int64_t lanes, const float* keys, int64_t size,
    float* scores) {
  Simd::Float sums[kKeys][kVectors];
  for (auto& line : sums) {
    for (auto& sum : line) {
      sum = Simd::zero();
    }
  }
  for (int64_t i = 0; i < size; ++i) {
    Simd::Float queries[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      queries[v] = Simd::load(columns + i * lanes + v * Simd::kWidth);
    }
    for (int k = 0; k < kKeys; ++k) {
      Simd::Float key = Simd::same(keys[k * size + i]);
      for (int v = 0; v < kVectors; ++v) {
        sums[k][v] = Simd::multiply_add(key, queries[v], sums[k][v]);
      }
    }
  }
  for (int k = 0; k < kKeys; ++k) {
    for (int v = 0; v < kVectors; ++v) {
      Simd::store(scores + k * lanes + v * Simd::kWidth, sums[k][v]);
    }
  }
}

template <int kVectors>
inline void score_lines(
    const float* columns, int64_t lanes, const float* keys, int64_t count,
    int64_t size, float* scores) {
  constexpr int kTogether = Simd::kKeysTogether;
  int64_t done = 0;
  for (; done + kTogether <= count; done += kTogether) {
    score_part<kTogether, kVectors>(
        columns, lanes, keys + done * size, size, scores + done * lanes);
  }
  for (; done < count; ++done) {
    score_part<1, kVectors>(
        columns, lanes, keys + done * size, size, scores + done * lanes);
  }
}

void score(
    const float* columns, int64_t lanes, const float* keys, int64_t count,
    int64_t size, float* scores) {
  for (int64_t first = 0; first < count; first += kNear) {
    int64_t now = first + kNear < count ? kNear : count - first;
    const float* from = keys + first * size;
    float* to = scores + first * lanes;
    for (int64_t lane = 0; lane < lanes;) {
      int64_t left = (lanes - lane) / Simd::kWidth;
      if (left == 1) {
        score_lines<1>(columns + lane, lanes, from, now, size, to + lane);
        lane += Simd::kWidth;
      } else if (left == 2 || left == 4) {
        score_lines<2>(columns + lane, lanes, from, now, size, to + lane);
        lane += 2 * Simd::kWidth;
      } else {
        score_lines<3>(columns + lane, lanes, from, now, size, to + lane);
        lane += 3 * Simd::kWidth;
      }
    }
  }
}

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
  constexpr int kTogether = Simd::kRowsTogether;
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
    few_rows, expand, swiglu, rms_norm,         softmax, weigh,
    score,    soften, gather, widen_from_start, nullptr};

} // namespace
} // namespace roundhouse
