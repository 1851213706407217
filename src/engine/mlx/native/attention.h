// Attention of some rows over the keys and values of one sequence.
#pragma once

#include <cstdint>

#include "product.h"

namespace roundhouse {

// Keys or values of all key heads: float32, or packed as `Weights` has it, with
// float32 scales. Each head's rows lie one after the other, heads so many numbers,
// words or groups apart.
struct HeldRows {
  const void* data;
  int64_t step;
  int bits = 0;
  int group = 0;
  const float* scales = nullptr;
  int64_t scales_step = 0;
  const float* biases = nullptr;
  int64_t biases_step = 0;
};

// How scores become shares; see `Attention`.
struct Scores {
  float scale;
  int64_t window;
  float cap;
};

// `rows` new rows of a sequence with `tokens` rows in all, the new ones last.
// Each sees itself and what is before it, `window` rows in all at most unless that
// is 0. If `cap` is not 0 a score s counts as cap · tanh(s / cap). `sinks`, if
// any, is a score for each query head that takes its share and gives nothing.
//
// Queries are [rows, query_heads, size]; keys and values [key_heads, tokens,
// size]. Query heads share the key heads in order, query_heads / key_heads to
// each. The result is [rows, query_heads, size].
struct Attention {
  const float* queries;
  HeldRows keys;
  HeldRows values;
  int64_t rows;
  int64_t tokens;
  int64_t query_heads;
  int64_t key_heads;
  int64_t size;
  float scale;
  int64_t window;
  float cap;
  const float* sinks;
};

void attend(const Attention& a, float* out);

} // namespace roundhouse
