#include "attention.h"

#include <algorithm>
#include <memory>

#include "blas.h"
#include "loops.h"
#include "threads.h"

namespace roundhouse {
namespace {

// Rows whose scores are computed together: a block of scores shall stay in the
// cache, and what a block computes beyond the diagonal is wasted.
constexpr int64_t kRows = 64;

// Multiplications below which another thread is not worth waking.
constexpr int64_t kWorthSharing = 1 << 18;

using Buffer = std::unique_ptr<float[]>;

Buffer buffer(int64_t floats) {
  return Buffer(new float[std::max<int64_t>(floats, 1)]);
}

// One row: all query heads that share a key head go through its keys and values
// once.
void one_row(const Attention& a, int64_t head, float* scores, float* out) {
  int64_t shared = a.query_heads / a.key_heads;
  const float* queries = a.queries + head * shared * a.size;
  Weights keys{a.keys + head * a.keys_step, a.tokens, a.size, Format::float32};
  product_of_rows(keys, 0, a.tokens, queries, shared, scores);
  for (int64_t i = 0; i < shared * a.tokens; ++i) {
    scores[i] *= a.scale;
  }
  for (int64_t i = 0; i < shared; ++i) {
    loops().softmax(scores + i * a.tokens, a.tokens);
  }
  loops().weigh(
      scores, shared, a.values + head * a.values_step, a.tokens, a.size,
      out + head * shared * a.size);
}

// Rows first..last of one query head.
void block(
    const Attention& a, int64_t head, int64_t first, int64_t last,
    float* scores, float* out) {
  int64_t key_head = head / (a.query_heads / a.key_heads);
  int64_t step = a.query_heads * a.size;
  int64_t at = first * step + head * a.size;
  int64_t seen = a.tokens - a.rows + last;
  int rows = int(last - first);
  blas_sgemm_alone(
      kRowMajor, kNoTranspose, kTranspose, rows, int(seen), int(a.size),
      a.scale, a.queries + at, int(step), a.keys + key_head * a.keys_step,
      int(a.size), 0, scores, int(seen));
  for (int64_t row = first; row < last; ++row) {
    float* line = scores + (row - first) * seen;
    int64_t own = a.tokens - a.rows + row + 1;
    loops().softmax(line, own);
    std::fill(line + own, line + seen, 0.0f);
  }
  blas_sgemm_alone(
      kRowMajor, kNoTranspose, kNoTranspose, rows, int(a.size), int(seen), 1,
      scores, int(seen), a.values + key_head * a.values_step, int(a.size), 0,
      out + at, int(step));
}

} // namespace

void attend(const Attention& a, float* out) {
  if (a.rows == 1) {
    auto some_heads = [&](int64_t first, int64_t last) {
      Buffer scores = buffer(a.query_heads / a.key_heads * a.tokens);
      for (int64_t head = first; head < last; ++head) {
        one_row(a, head, scores.get(), out);
      }
    };
    if (a.query_heads * a.tokens * a.size < kWorthSharing) {
      some_heads(0, a.key_heads);
    } else {
      in_parallel(a.key_heads, 1, some_heads);
    }
    return;
  }
  int64_t blocks = (a.rows + kRows - 1) / kRows;
  in_parallel(a.query_heads * blocks, 1, [&](int64_t first, int64_t last) {
    Buffer scores = buffer(std::min(kRows, a.rows) * a.tokens);
    for (int64_t job = first; job < last; ++job) {
      int64_t from = job % blocks * kRows;
      int64_t to = std::min(from + kRows, a.rows);
      block(a, job / blocks, from, to, scores.get(), out);
    }
  });
}

} // namespace roundhouse
