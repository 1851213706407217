#include "attention.h"

#include <algorithm>
#include <cmath>

#include "buffer.h"
#include "loops.h"
#include "threads.h"

namespace roundhouse {
namespace {

// Rows of scores that are computed together, for all query heads that share a key head: a
// block of scores shall stay in the cache, and what a block computes beyond the diagonal is
// wasted.
constexpr int64_t kScores = 64;

// Rows up to which each is computed by itself: those of a step in which some tokens are
// guessed give then what each would have given in a step of its own.
constexpr int64_t kAlone = 9;

// Packed rows that are written out as float32 at a time: they shall stay in the
// cache until they are read.
constexpr int64_t kUnpacked = 256;

// Multiplications below which another thread is not worth waking.
constexpr int64_t kWorthSharing = 1 << 18;

// The score of a key that is not seen: its share is none.
constexpr float kUnseen = -1e38f;

// `count` rows of a head from row `first` on.
Weights rows_of(
    const HeldRows& held, const Attention& a, int64_t head, int64_t first,
    int64_t count) {
  Weights rows{nullptr, count, a.size, Format::float32, held.bits, held.group};
  if (held.bits == 0) {
    rows.data = static_cast<const float*>(held.data) + head * held.step +
        first * a.size;
    return rows;
  }
  rows.data = static_cast<const uint32_t*>(held.data) + head * held.step +
      first * a.size * held.bits / 32;
  rows.scales = held.scales + head * held.scales_step + first * groups(rows);
  rows.biases = held.biases + head * held.biases_step + first * groups(rows);
  return rows;
}

// Calls `take(numbers, first, last)` for rows after rows, as float32: all at once
// where they are that already.
template <typename Take>
void as_floats(const Weights& rows, Take take) {
  if (rows.bits == 0) {
    take(static_cast<const float*>(rows.data), 0, rows.rows);
    return;
  }
  Buffer numbers = buffer(std::min(kUnpacked, rows.rows) * rows.columns);
  Buffer scratch = buffer(scratch_floats(rows));
  for (int64_t first = 0; first < rows.rows; first += kUnpacked) {
    int64_t last = std::min(first + kUnpacked, rows.rows);
    loops().expand(rows, first, last, numbers.get(), scratch.get());
    take(numbers.get(), first, last);
  }
}

// The first row that is seen by the one behind which `own` rows end.
int64_t first_seen(const Attention& a, int64_t own) {
  return a.window == 0 ? 0 : std::max<int64_t>(0, own - a.window);
}

// Scores of one query head to their shares.
void shares(const Attention& a, int64_t head, float* scores, int64_t count) {
  if (a.cap != 0) {
    for (int64_t i = 0; i < count; ++i) {
      scores[i] = a.cap * std::tanh(scores[i] / a.cap);
    }
  }
  if (a.sinks == nullptr) {
    loops().softmax(scores, count);
    return;
  }
  // The largest share is one over the sum of the exponentials, each divided by
  // the largest; to that sum comes the sink's.
  int64_t largest = std::max_element(scores, scores + count) - scores;
  float distance = a.sinks[head] - scores[largest];
  loops().softmax(scores, count);
  float left = 1 / (1 + scores[largest] * std::exp(distance));
  for (int64_t i = 0; i < count; ++i) {
    scores[i] *= left;
  }
}

// One row by itself: all query heads that share a key head go through its keys and
// values once.
void one_row(
    const Attention& a, int64_t row, int64_t head, float* scores, float* out) {
  int64_t shared = a.query_heads / a.key_heads;
  int64_t end = a.tokens - a.rows + row + 1;
  int64_t from = first_seen(a, end), seen = end - from;
  int64_t at = (row * a.query_heads + head * shared) * a.size;
  const float* queries = a.queries + at;
  product_of_rows(
      rows_of(a.keys, a, head, from, seen), 0, seen, queries, shared, scores);
  for (int64_t i = 0; i < shared * seen; ++i) {
    scores[i] *= a.scale;
  }
  for (int64_t i = 0; i < shared; ++i) {
    shares(a, head * shared + i, scores + i * seen, seen);
  }
  out += at;
  Weights values = rows_of(a.values, a, head, from, seen);
  if (values.bits == 0) {
    const float* numbers = static_cast<const float*>(values.data);
    loops().weigh(scores, shared, numbers, seen, a.size, out);
    return;
  }
  std::fill(out, out + shared * a.size, 0.0f);
  Buffer part = buffer(a.size);
  as_floats(values, [&](const float* numbers, int64_t first, int64_t last) {
    for (int64_t i = 0; i < shared; ++i) {
      const float* line = scores + i * seen + first;
      loops().weigh(line, 1, numbers, last - first, a.size, part.get());
      for (int64_t j = 0; j < a.size; ++j) {
        out[i * a.size + j] += part[j];
      }
    }
  });
}

// The rows of queries or answers `[rows, query heads, size]` that rows first..last of the
// query heads behind one key head are: calls `take(row of the block, where it lies)`.
template <typename Take>
void rows_of_block(
    const Attention& a, int64_t key_head, int64_t first, int64_t last, Take take) {
  int64_t shared = a.query_heads / a.key_heads;
  for (int64_t i = 0; i < shared; ++i) {
    for (int64_t row = first; row < last; ++row) {
      int64_t head = row * a.query_heads + key_head * shared + i;
      take(i * (last - first) + row - first, head * a.size);
    }
  }
}

// What a block works on.
struct Block {
  // So that all rows of the block have a column.
  int64_t lanes;
  // [size, lanes]
  Buffer columns;
  // [tokens, lanes]
  Buffer scores;
  // Of each column.
  Buffer largest;
  Buffer totals;
  // [rows, size]
  Buffer rows;

  Block(const Attention& a, int64_t count)
      : lanes((count + kLanes - 1) / kLanes * kLanes),
        columns(buffer(a.size * lanes)),
        scores(buffer(a.tokens * lanes)),
        largest(buffer(lanes)),
        totals(buffer(lanes)),
        rows(buffer(count * a.size)) {}
};

// Rows first..last of all query heads that share a key head: keys and values are gone through
// once for all of them.
void block(
    const Attention& a, int64_t key_head, int64_t first, int64_t last,
    Block& own, float* out) {
  int64_t shared = a.query_heads / a.key_heads;
  int64_t before = a.tokens - a.rows;
  int64_t from = first_seen(a, before + first + 1);
  int64_t seen = before + last - from;
  int64_t count = shared * (last - first), lanes = own.lanes;
  float* columns = own.columns.get();
  float* scores = own.scores.get();
  std::fill(columns, columns + a.size * lanes, 0.0f);
  rows_of_block(a, key_head, first, last, [&](int64_t row, int64_t at) {
    for (int64_t i = 0; i < a.size; ++i) {
      columns[i * lanes + row] = a.queries[at + i] * a.scale;
    }
  });
  Weights keys = rows_of(a.keys, a, key_head, from, seen);
  as_floats(keys, [&](const float* numbers, int64_t begin, int64_t end) {
    loops().by_columns(
        columns, lanes, numbers, end - begin, a.size, nullptr, 0,
        scores + begin * lanes);
  });
  if (a.cap != 0) {
    std::transform(scores, scores + seen * lanes, scores, [&](float score) {
      return a.cap * std::tanh(score / a.cap);
    });
  }
  for (int64_t row = first; row < last; ++row) {
    int64_t end = before + row + 1;
    int64_t begin = first_seen(a, end) - from;
    end -= from;
    for (int64_t i = 0; i < shared; ++i) {
      float* column = scores + i * (last - first) + row - first;
      for (int64_t t = 0; t < begin; ++t) {
        column[t * lanes] = kUnseen;
      }
      for (int64_t t = end; t < seen; ++t) {
        column[t * lanes] = kUnseen;
      }
    }
  }
  loops().soften(scores, seen, lanes, own.largest.get(), own.totals.get());
  if (a.sinks != nullptr) {
    for (int64_t row = 0; row < count; ++row) {
      float sink = a.sinks[key_head * shared + row / (last - first)];
      own.totals[row] += std::exp(sink - own.largest[row]);
    }
  }
  std::fill(own.rows.get(), own.rows.get() + count * a.size, 0.0f);
  Weights values = rows_of(a.values, a, key_head, from, seen);
  as_floats(values, [&](const float* numbers, int64_t begin, int64_t end) {
    loops().gather(
        scores + begin * lanes, lanes, count, numbers, end - begin, a.size,
        own.rows.get());
  });
  rows_of_block(a, key_head, first, last, [&](int64_t row, int64_t at) {
    const float* answer = own.rows.get() + row * a.size;
    float factor = 1 / own.totals[row];
    for (int64_t i = 0; i < a.size; ++i) {
      out[at + i] = answer[i] * factor;
    }
  });
}

} // namespace

void attend(const Attention& a, float* out) {
  if (a.rows <= kAlone) {
    auto some_heads = [&](int64_t first, int64_t last) {
      Buffer scores = buffer(a.query_heads / a.key_heads * a.tokens);
      for (int64_t head = first; head < last; ++head) {
        for (int64_t row = 0; row < a.rows; ++row) {
          one_row(a, row, head, scores.get(), out);
        }
      }
    };
    if (a.rows * a.query_heads * a.tokens * a.size < kWorthSharing) {
      some_heads(0, a.key_heads);
    } else {
      in_parallel(a.key_heads, 1, some_heads);
    }
    return;
  }
  int64_t shared = a.query_heads / a.key_heads;
  int64_t height = std::min(std::max<int64_t>(kScores / shared, 1), a.rows);
  int64_t blocks = (a.rows + height - 1) / height;
  in_parallel(a.key_heads * blocks, 1, [&](int64_t first, int64_t last) {
    Block own(a, shared * height);
    for (int64_t job = first; job < last; ++job) {
      int64_t from = job % blocks * height;
      int64_t to = std::min(from + height, a.rows);
      block(a, job / blocks, from, to, own, out);
    }
  });
}

} // namespace roundhouse
