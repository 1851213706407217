#include "attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>

#include "blas.h"
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

using Buffer = std::unique_ptr<float[]>;

Buffer buffer(int64_t floats) {
  return Buffer(new float[std::max<int64_t>(floats, 1)]);
}

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

// Rows first..last of all query heads that share a key head: keys and values are gone through
// once for all of them. `rows` holds as many numbers as their queries.
void block(
    const Attention& a, int64_t key_head, int64_t first, int64_t last,
    float* scores, float* rows, float* out) {
  int64_t shared = a.query_heads / a.key_heads;
  int64_t before = a.tokens - a.rows;
  int64_t from = first_seen(a, before + first + 1);
  int64_t seen = before + last - from;
  int count = int(shared * (last - first));
  const size_t bytes = a.size * sizeof(float);
  rows_of_block(a, key_head, first, last, [&](int64_t row, int64_t at) {
    std::memcpy(rows + row * a.size, a.queries + at, bytes);
  });
  Weights keys = rows_of(a.keys, a, key_head, from, seen);
  as_floats(keys, [&](const float* numbers, int64_t first, int64_t last) {
    blas_sgemm_alone(
        kRowMajor, kNoTranspose, kTranspose, count, int(last - first),
        int(a.size), a.scale, rows, int(a.size), numbers, int(a.size), 0,
        scores + first, int(seen));
  });
  for (int64_t i = 0; i < shared; ++i) {
    for (int64_t row = first; row < last; ++row) {
      float* line = scores + (i * (last - first) + row - first) * seen;
      int64_t end = before + row + 1;
      int64_t begin = first_seen(a, end) - from;
      end -= from;
      std::fill(line, line + begin, 0.0f);
      shares(a, key_head * shared + i, line + begin, end - begin);
      std::fill(line + end, line + seen, 0.0f);
    }
  }
  Weights values = rows_of(a.values, a, key_head, from, seen);
  as_floats(values, [&](const float* numbers, int64_t first, int64_t last) {
    blas_sgemm_alone(
        kRowMajor, kNoTranspose, kNoTranspose, count, int(a.size),
        int(last - first), 1, scores + first, int(seen), numbers, int(a.size),
        first == 0 ? 0 : 1, rows, int(a.size));
  });
  rows_of_block(a, key_head, first, last, [&](int64_t row, int64_t at) {
    std::memcpy(out + at, rows + row * a.size, bytes);
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
    Buffer scores = buffer(shared * height * a.tokens);
    Buffer rows = buffer(shared * height * a.size);
    for (int64_t job = first; job < last; ++job) {
      int64_t from = job % blocks * height;
      int64_t to = std::min(from + height, a.rows);
      block(a, job / blocks, from, to, scores.get(), rows.get(), out);
    }
  });
}

} // namespace roundhouse
