// The inner loops, once for each instruction set of a processor family. Files
// named `loops_*.cpp` define them from the same text, `product_loops.h`,
// `activation_loops.h` and `attention_loops.h`.
#pragma once

#include "product.h"

namespace roundhouse {

// Columns of x that lie together, see `Loops::few_rows`.
constexpr int kSlice = 16;
// How many weight rows the product takes at a time, at most.
constexpr int kMostColumns = 8;

// Columns lie in memory in whole runs of so many, see `Loops::by_columns`.
constexpr int kLanes = 16;

inline int64_t scratch_floats(const Weights& w) {
  return 2 * kMostColumns * groups(w);
}

// Products of packed weights in whole numbers, nearly as exact as those in float32.
struct IntegerLoops {
  // Bytes of a row of x that is split for `w`, whole cache lines; 0 if weights of its
  // kind are not multiplied so.
  int64_t (*split_bytes)(const Weights& w);
  // Splits a row of x; `out` begins a cache line. False, and nothing to multiply with, if
  // it has infinite numbers, some that are none, too large or too small ones.
  bool (*split)(const Weights& w, const float* x, char* out);
  // As `Loops::few_rows`, for split rows one after the other.
  void (*few_rows)(
      const Weights& w, int64_t first, int64_t last, const char* split,
      int count, float* y);
};

struct Loops {
  // Weight rows first..last against 1, 2, 3, 4 or 8 rows of x. `slices` is x
  // once more, as far as `kSlice` divides it: kSlice columns of all rows after
  // one another, then the next columns. (One row is its own slices.) `scratch`
  // holds at least `scratch_floats(w)` numbers.
  void (*few_rows)(
      const Weights& w, int64_t first, int64_t last, const float* x,
      const float* slices, int count, float* y, float* scratch);
  // Writes weight rows first..last out as float32.
  void (*expand)(
      const Weights& w, int64_t first, int64_t last, float* out,
      float* scratch);
  // out[i] = gate[i] · sigmoid(gate[i]) · up[i]
  void (*swiglu)(const float* gate, const float* up, int64_t count, float* out);
  // One row of `size` numbers divided by its root mean square, times `weight`.
  void (*rms_norm)(
      const float* x, const float* weight, float epsilon, int64_t size,
      float* out);
  // The numbers replaced by their shares in the sum of their exponentials.
  void (*softmax)(float* numbers, int64_t count);
  // out [rows, size] = shares [rows, count] · values [count, size]
  void (*weigh)(
      const float* shares, int64_t rows, const float* values, int64_t count,
      int64_t size, float* out);
  // out [count, lanes] = rows [count, size] · columns [size, lanes]; kLanes divides `lanes`.
  // While it multiplies it brings near what is read `next`; where nothing is told, what
  // follows those rows.
  void (*by_columns)(
      const float* columns, int64_t lanes, const float* rows, int64_t count,
      int64_t size, const char* next, int64_t next_bytes, float* out);
  // Each of `scores` [count, lanes] replaced by its exponential, divided by that of the
  // largest in its column; that largest, and the sum of what is there then.
  void (*soften)(
      float* scores, int64_t count, int64_t lanes, float* largest,
      float* totals);
  // out [rows, size] += the first `rows` columns of shares [count, lanes], each a row, ·
  // values [count, size]
  void (*gather)(
      const float* shares, int64_t lanes, int64_t rows, const float* values,
      int64_t count, int64_t size, float* out);
  // Numbers of any format as float32.
  void (*widen)(const void* data, Format format, int64_t count, float* out);
  // Rows up to which `by_columns` is quicker than OpenBLAS, with weights that are float32, and
  // with those that are expanded; measured.
  int64_t most_standing;
  int64_t most_standing_expanded;
  // Where the processor multiplies whole numbers faster; else null.
  const IntegerLoops* integers;
};

// The best that the processor has, unless another choice is made.
const Loops& loops();

// A choice for tests and measurements. False where the processor lacks it.
enum class Instructions { portable, avx2, avx512, avx512_vnni };
bool use_instructions(Instructions instructions);

const Loops& loops_portable();
#if defined(__x86_64__)
const Loops& loops_avx2();
const Loops& loops_avx512();
const Loops& loops_avx512_vnni();
#endif

} // namespace roundhouse
