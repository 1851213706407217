// The inner loops of products, written once over a small set of vector
// operations (`Simd`) that the including file defines for its instruction set.
//
// Included by `loops_*.cpp` only. Everything is in an unnamed namespace and
// nothing of the standard library is used: these files are compiled for newer
// processors than the rest, and an inline function that other files have too
// could end up as its copy in all of them.
//
// Simd has `Float`, a vector of `kWidth` numbers, of which kSums fit the registers beside
// what they are summed from; `zero`, `same(number)`, `load`, `store`,
// `multiply_add(a, b, c)` = a·b + c; `sums<n>(vectors)`, whose number i is the
// sum over vector i of n; `half` and `brain`, which widen kWidth numbers of 16
// bits; `kMostStanding` and `kMostStandingExpanded`, see `Loops`; and `Table<bits>`
// with `set(scale, bias)` and `load(bytes)`, which gives kWidth dequantised numbers
// and reads exactly the bytes that hold them.
#pragma once

#include "loops.h"

namespace roundhouse {
namespace {

// What is multiplied between two looks at scale and bias. Divides every group.
constexpr int kBlock = 32;

inline Simd::Float widen(const void* data, Format format, int64_t index) {
  switch (format) {
    case Format::float16:
      return Simd::half(static_cast<const uint16_t*>(data) + index);
    case Format::bfloat16:
      return Simd::brain(static_cast<const uint16_t*>(data) + index);
    default:
      return Simd::load(static_cast<const float*>(data) + index);
  }
}

// Writes `count` numbers of any format out as float32. Beyond the last whole
// vector it works on a copy, so that it reads nothing outside.
inline void widen_all(
    const void* data, Format format, int64_t first, int64_t count, float* out) {
  int64_t done = 0;
  for (; done + Simd::kWidth <= count; done += Simd::kWidth) {
    Simd::store(out + done, widen(data, format, first + done));
  }
  if (done == count) {
    return;
  }
  const int bytes = format == Format::float32 ? 4 : 2;
  const int rest = int(count - done) * bytes;
  const char* from = static_cast<const char*>(data) + (first + done) * bytes;
  alignas(64) char part[Simd::kWidth * 4] = {};
  alignas(64) float wide[Simd::kWidth];
  __builtin_memcpy(part, from, rest);
  Simd::store(wide, widen(part, format, 0));
  __builtin_memcpy(out + done, wide, (count - done) * sizeof(float));
}

// ---- one row of weights, read from left to right ----

// Scales and biases of some neighbouring rows of weights, as float32.
struct Scales {
  const float* scales;
  const float* biases;
};

// Those of rows first..last. `scratch` holds them, if they have another format; a
// whole run at a time, since what is left beyond whole vectors costs most.
inline Scales scales_of(
    const Weights& w, int64_t first, int64_t last, float* scratch) {
  int64_t count = groups(w);
  if (w.format == Format::float32) {
    int64_t offset = first * count;
    return {
        static_cast<const float*>(w.scales) + offset,
        static_cast<const float*>(w.biases) + offset};
  }
  int64_t all = (last - first) * count;
  widen_all(w.scales, w.format, first * count, all, scratch);
  widen_all(w.biases, w.format, first * count, all, scratch + all);
  return {scratch, scratch + all};
}

template <Format format>
struct DenseRow {
  // Dense weights are bound by memory, which gives more to several streams far
  // apart than to neighbours: half as much again, measured on a server's core.
  static constexpr bool kFarApart = true;
  // How many are multiplied side by side with one row of x.
  static constexpr int kSideBySide = 8;

  const Weights* weights;
  int64_t offset;

  static Scales prepare(const Weights&, int64_t, int64_t, float*) {
    return {};
  }

  void start(const Weights& w, int64_t row, const Scales&, int64_t) {
    weights = &w;
    offset = row * w.columns;
  }

  void begin_block(int64_t) {}

  Simd::Float load(int64_t column) const {
    return widen(weights->data, format, offset + column);
  }

  void rest(int64_t column, int64_t count, float* out) const {
    widen_all(weights->data, format, offset + column, count, out);
  }
};

template <int bits>
struct QuantizedRow {
  static constexpr bool kFarApart = false;
  // Few: short rows that follow one another are one stream, which the processor
  // and `begin_block` read ahead; eight of them side by side are eight.
  static constexpr int kSideBySide = 2;
  // Bytes that are asked for ahead of their use.
  static constexpr int kAhead = 2048;

  const uint8_t* packed;
  const float* scales;
  const float* biases;
  int shift;
  Simd::Table<bits> table;

  static Scales prepare(
      const Weights& w, int64_t first, int64_t last, float* scratch) {
    return scales_of(w, first, last, scratch);
  }

  // `index` is the place of the row among those that `all` is of.
  void start(
      const Weights& w, int64_t row, const Scales& all, int64_t index) {
    packed = static_cast<const uint8_t*>(w.data) + row * (w.columns / 8) * bits;
    shift = __builtin_ctz(unsigned(w.group));
    scales = all.scales + index * groups(w);
    biases = all.biases + index * groups(w);
  }

  void begin_block(int64_t column) {
    __builtin_prefetch(packed + (column >> 3) * bits + kAhead);
    int64_t index = column >> shift;
    table.set(scales[index], biases[index]);
  }

  Simd::Float load(int64_t column) const {
    return table.load(packed + (column >> 3) * bits);
  }

  // Whole groups only: nothing is left over.
  void rest(int64_t, int64_t, float*) const {}
};

// ---- tiles ----

// totals[i] = the sum of the numbers in sums[i]
template <int kCount>
inline void add_up(const Simd::Float* sums, float* totals) {
  constexpr int kNow = kCount < Simd::kWidth ? kCount : Simd::kWidth;
  Simd::store(totals, Simd::template sums<kNow>(sums));
  if constexpr (kCount > kNow) {
    add_up<kCount - kNow>(sums + kNow, totals + kNow);
  }
}

// `kRows` rows of x against `kColumns` rows of weights, `apart` from each other.
// `slices` is x as `Loops::few_rows` describes it; `index` is the place of the first
// row among those that `scales` are of.
template <class Row, int kRows, int kColumns>
inline void tile(
    const Weights& w, int64_t first, int64_t apart, const Scales& scales,
    int64_t index, const float* x, const float* slices, float* y) {
  const int64_t columns = w.columns;
  Row row[kColumns];
  Simd::Float sums[kColumns][kRows];
  for (int c = 0; c < kColumns; ++c) {
    row[c].start(w, first + c * apart, scales, index + c);
    for (int r = 0; r < kRows; ++r) {
      sums[c][r] = Simd::zero();
    }
  }
  const int64_t whole = columns / kBlock * kBlock;
  for (int64_t block = 0; block < whole; block += kBlock) {
    for (int c = 0; c < kColumns; ++c) {
      row[c].begin_block(block);
    }
    const float* from = slices + block * kRows;
    for (int k = 0; k < kBlock; k += Simd::kWidth) {
      Simd::Float values[kRows];
      for (int r = 0; r < kRows; ++r) {
        int slice = k / kSlice * kSlice;
        values[r] =
            Simd::load(from + slice * kRows + r * kSlice + (k - slice));
      }
      for (int c = 0; c < kColumns; ++c) {
        Simd::Float weight = row[c].load(block + k);
        for (int r = 0; r < kRows; ++r) {
          sums[c][r] = Simd::multiply_add(weight, values[r], sums[c][r]);
        }
      }
    }
  }
  constexpr int kSums = kColumns * kRows;
  float totals[(kSums + Simd::kWidth - 1) / Simd::kWidth * Simd::kWidth];
  add_up<kSums>(&sums[0][0], totals);
  if (whole < columns) {
    for (int c = 0; c < kColumns; ++c) {
      float left[kBlock] = {};
      row[c].rest(whole, columns - whole, left);
      for (int r = 0; r < kRows; ++r) {
        for (int64_t k = whole; k < columns; ++k) {
          totals[c * kRows + r] += left[k - whole] * x[r * columns + k];
        }
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int c = 0; c < kColumns; ++c) {
      y[r * w.rows + first + c * apart] = totals[c * kRows + r];
    }
  }
}

// Rows that lie far apart, as many streams as are multiplied side by side.
template <class Row, int kRows, int kColumns>
inline void far_apart(
    const Weights& w, int64_t first, int64_t last, const float* x,
    const float* slices, float* y) {
  const int64_t tiles = (last - first) / kColumns;
  for (int64_t i = 0; i < tiles; ++i) {
    tile<Row, kRows, kColumns>(w, first + i, tiles, {}, 0, x, slices, y);
  }
  for (first += tiles * kColumns; first < last; ++first) {
    tile<Row, kRows, 1>(w, first, 1, {}, 0, x, slices, y);
  }
}

// Rows one after the other, kMostColumns at a time.
template <class Row, int kRows, int kColumns>
inline void in_order(
    const Weights& w, int64_t first, int64_t last, const float* x,
    const float* slices, float* y, float* scratch) {
  for (int64_t end; first < last; first = end) {
    end = first + kMostColumns < last ? first + kMostColumns : last;
    Scales scales = Row::prepare(w, first, end, scratch);
    int64_t row = first;
    for (; row + kColumns <= end; row += kColumns) {
      tile<Row, kRows, kColumns>(w, row, 1, scales, row - first, x, slices, y);
    }
    for (; row < end; ++row) {
      tile<Row, kRows, 1>(w, row, 1, scales, row - first, x, slices, y);
    }
  }
}

template <class Row, int kRows>
void all_columns(
    const Weights& w, int64_t first, int64_t last, const float* x,
    const float* slices, float* y, float* scratch) {
  // Enough independent sums to hide the latency of an addition, few enough to
  // stay in registers.
  constexpr int kColumns = kRows == 1 ? Row::kSideBySide : kRows <= 4 ? 4 : 2;
  static_assert(kMostColumns % kColumns == 0);
  if constexpr (Row::kFarApart) {
    far_apart<Row, kRows, kColumns>(w, first, last, x, slices, y);
  } else {
    in_order<Row, kRows, kColumns>(w, first, last, x, slices, y, scratch);
  }
}

template <class Row>
void rows_of(
    const Weights& w, int64_t first, int64_t last, const float* x,
    const float* slices, int count, float* y, float* scratch) {
  switch (count) {
    case 1:
      return all_columns<Row, 1>(w, first, last, x, slices, y, scratch);
    case 2:
      return all_columns<Row, 2>(w, first, last, x, slices, y, scratch);
    case 3:
      return all_columns<Row, 3>(w, first, last, x, slices, y, scratch);
    case 4:
      return all_columns<Row, 4>(w, first, last, x, slices, y, scratch);
    case 8:
      return all_columns<Row, 8>(w, first, last, x, slices, y, scratch);
  }
}

// ---- many rows of x, standing ----

constexpr int64_t kCacheLine = 64;

// What is asked for while tiles are multiplied: a few lines with each slice, since many at once
// would be waited for.
struct Asked {
  const char* at;
  const char* end;
  int64_t lines;
};

// Of what comes `next`, or else of the tile after the one that begins with `rows`.
template <int kCount>
inline void ask(Asked& next, const float* rows, int64_t size, int64_t column) {
  if (next.lines == 0) {
    for (int r = 0; r < kCount; ++r) {
      // For the second-level cache: in the first, it would displace columns.
      __builtin_prefetch(rows + (kCount + r) * size + column, 0, 2);
    }
    return;
  }
  for (int64_t i = 0; i < next.lines && next.at < next.end; ++i) {
    __builtin_prefetch(next.at);
    next.at += kCacheLine;
  }
}

// `kCount` rows against kVectors vectors of columns: each number of a row is read once for all
// of them, and nothing is added up across a vector.
template <int kCount, int kVectors>
inline void columns_part(
    const float* columns, int64_t lanes, const float* rows, int64_t size,
    Asked& next, float* out) {
  Simd::Float sums[kCount][kVectors];
  for (auto& line : sums) {
    for (auto& sum : line) {
      sum = Simd::zero();
    }
  }
  for (int64_t first = 0; first < size; first += kSlice) {
    ask<kCount>(next, rows, size, first);
    const int64_t last = first + kSlice < size ? first + kSlice : size;
    for (int64_t i = first; i < last; ++i) {
      Simd::Float column[kVectors];
      for (int v = 0; v < kVectors; ++v) {
        column[v] = Simd::load(columns + i * lanes + v * Simd::kWidth);
      }
      for (int r = 0; r < kCount; ++r) {
        Simd::Float number = Simd::same(rows[r * size + i]);
        for (int v = 0; v < kVectors; ++v) {
          sums[r][v] = Simd::multiply_add(number, column[v], sums[r][v]);
        }
      }
    }
  }
  for (int r = 0; r < kCount; ++r) {
    for (int v = 0; v < kVectors; ++v) {
      Simd::store(out + r * lanes + v * Simd::kWidth, sums[r][v]);
    }
  }
}

// Rows of a tile: more than have an address each that is cheap to reach cost more than they
// save.
constexpr int kTallest = 12;

template <int kVectors>
inline void columns_lines(
    const float* columns, int64_t lanes, const float* rows, int64_t count,
    int64_t size, Asked& next, float* out) {
  constexpr int kTogether =
      Simd::kSums / kVectors < kTallest ? Simd::kSums / kVectors : kTallest;
  int64_t done = 0;
  for (; done + kTogether <= count; done += kTogether) {
    columns_part<kTogether, kVectors>(
        columns, lanes, rows + done * size, size, next, out + done * lanes);
  }
  for (; done < count; ++done) {
    columns_part<1, kVectors>(
        columns, lanes, rows + done * size, size, next, out + done * lanes);
  }
}

// Rows that stay near while all columns meet them; tiles of any height divide it.
constexpr int64_t kRowsNear = 48;

void by_columns(
    const float* columns, int64_t lanes, const float* rows, int64_t count,
    int64_t size, const char* next, int64_t next_bytes, float* out) {
  // So many slices there are at the least.
  const int64_t slices = (count + kTallest - 1) / kTallest *
      ((size + kSlice - 1) / kSlice) * ((lanes + 3 * kLanes - 1) / (3 * kLanes));
  const int64_t lines = (next_bytes + kCacheLine - 1) / kCacheLine;
  Asked asked{next, next + next_bytes, (lines + slices - 1) / slices};
  for (int64_t first = 0; first < count; first += kRowsNear) {
    int64_t now = first + kRowsNear < count ? kRowsNear : count - first;
    const float* from = rows + first * size;
    float* to = out + first * lanes;
    for (int64_t lane = 0; lane < lanes;) {
      int64_t left = (lanes - lane) / Simd::kWidth;
      if (left == 1) {
        columns_lines<1>(columns + lane, lanes, from, now, size, asked, to + lane);
        lane += Simd::kWidth;
      } else if (left == 2 || left == 4) {
        columns_lines<2>(columns + lane, lanes, from, now, size, asked, to + lane);
        lane += 2 * Simd::kWidth;
      } else {
        columns_lines<3>(columns + lane, lanes, from, now, size, asked, to + lane);
        lane += 3 * Simd::kWidth;
      }
    }
  }
}

template <class Row>
void expand_of(
    const Weights& w, int64_t first, int64_t last, float* out, float* scratch) {
  const int64_t whole = w.columns / kBlock * kBlock;
  for (int64_t end; first < last; first = end) {
    end = first + kMostColumns < last ? first + kMostColumns : last;
    Scales scales = Row::prepare(w, first, end, scratch);
    for (int64_t index = 0; index < end - first; ++index, out += w.columns) {
      Row row;
      row.start(w, first + index, scales, index);
      for (int64_t block = 0; block < whole; block += kBlock) {
        row.begin_block(block);
        for (int64_t k = block; k < block + kBlock; k += Simd::kWidth) {
          Simd::store(out + k, row.load(k));
        }
      }
      row.rest(whole, w.columns - whole, out + whole);
    }
  }
}

// Calls `work` with the kind of row that `w` has.
template <class Work>
inline void with_row(const Weights& w, Work work) {
  switch (w.bits) {
    case 0:
      switch (w.format) {
        case Format::float16:
          return work(DenseRow<Format::float16>());
        case Format::bfloat16:
          return work(DenseRow<Format::bfloat16>());
        default:
          return work(DenseRow<Format::float32>());
      }
    case 2:
      return work(QuantizedRow<2>());
    case 3:
      return work(QuantizedRow<3>());
    case 4:
      return work(QuantizedRow<4>());
    case 6:
      return work(QuantizedRow<6>());
    case 8:
      return work(QuantizedRow<8>());
  }
}

void few_rows(
    const Weights& w, int64_t first, int64_t last, const float* x,
    const float* slices, int count, float* y, float* scratch) {
  with_row(w, [&]<class Row>(Row) {
    rows_of<Row>(w, first, last, x, slices, count, y, scratch);
  });
}

void expand(
    const Weights& w, int64_t first, int64_t last, float* out, float* scratch) {
  with_row(w, [&]<class Row>(Row) {
    expand_of<Row>(w, first, last, out, scratch);
  });
}

} // namespace
} // namespace roundhouse
