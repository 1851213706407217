// Which way a product is computed, and by how many threads.
#include "product.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <vector>

#include "blas.h"
#include "buffer.h"
#include "loops.h"
#include "threads.h"

namespace roundhouse {
namespace {

// Rows of x up to which they meet the weights as columns; for more it is faster to write the
// weights out as float32, a panel at a time, and to let OpenBLAS multiply, which arranges both
// anew.
int64_t most_standing(const Weights& w) {
  bool as_they_are = w.bits == 0 && w.format == Format::float32;
  return as_they_are ? loops().most_standing : loops().most_standing_expanded;
}

// Bytes of a panel: it shall stay in the second-level cache between being
// written and being read.
constexpr int64_t kPanelBytes = 512 * 1024;

// Rows of x from which on they meet the weights all at once, as columns: measured. Below it
// each row gives what it gives alone.
constexpr int64_t kLeastStanding = 14;

// Rows beyond whole runs of columns that meet the weights as rows: measured. More of them are
// cheaper as columns, beside empty ones.
constexpr int64_t kMostLying = 12;

// Bytes of weights that stay in the second-level cache while all rows of x meet them.
constexpr int64_t kWeightBytes = 320 * 1024;

// Multiplications below which another thread is not worth waking.
constexpr int64_t kWorthSharing = 1 << 18;

// How many rows of x are taken together. Eight are worth it where weights are unpacked for
// them; else twice four, the second time from the cache, leave the memory less to wait for.
int most_together(const Weights& w) {
  bool as_they_are = w.bits == 0 && w.format == Format::float32;
  const IntegerLoops* integers = loops().integers;
  bool split = integers != nullptr && integers->split_bytes(w) != 0;
  return as_they_are || split ? 4 : 8;
}

// Of `left` rows.
int together(int64_t left, int most) {
  return left >= most ? most : left >= 4 ? 4 : int(left);
}

// Rows of weights of kWeightBytes, whole tiles of any kind.
int64_t weight_rows(int64_t columns, int bits) {
  int64_t rows = kWeightBytes * 8 / bits / columns;
  return std::max<int64_t>(rows / 64 * 64, 64);
}

// All rows of x in slices, group by group, as `Loops::few_rows` wants them.
Buffer in_slices(const float* x, int64_t count, int64_t columns, int most) {
  Buffer slices = buffer(count * columns);
  int64_t whole = columns / kSlice * kSlice;
  for (int64_t row = 0; row < count;) {
    int rows = together(count - row, most);
    float* to = slices.get() + row * columns;
    for (int64_t k = 0; k < whole; k += kSlice) {
      for (int r = 0; r < rows; ++r, to += kSlice) {
        std::memcpy(to, x + (row + r) * columns + k, kSlice * sizeof(float));
      }
    }
    row += rows;
  }
  return slices;
}

// Rows of x as the inner loops want them, made once for all weights of a kind.
class Ready {
 public:
  // Of `kind` counts all but where its numbers are.
  Ready(const Weights& kind, const float* x, int64_t count)
      : x_(x), count_(count), columns_(kind.columns), most_(most_together(kind)) {
    const IntegerLoops* integers = loops().integers;
    split_bytes_ = integers == nullptr ? 0 : integers->split_bytes(kind);
    if (split_bytes_ == 0) {
      // With one row, x is its own slices.
      sliced_ = count > 1 ? in_slices(x, count, columns_, most_) : nullptr;
      return;
    }
    split_ = buffer(count * split_bytes_ / int64_t(sizeof(float)));
    for (int64_t row = 0; row < count; ++row) {
      if (!integers->split(kind, x + row * columns_, split_row(row))) {
        unsplit_.push_back(row);
      }
    }
  }

  // y of weight rows first..last.
  void multiply(const Weights& w, int64_t first, int64_t last, float* y) const {
    Buffer scratch = buffer(scratch_floats(w));
    // Only weights that are used again are worth keeping near.
    const int bits =
        w.bits != 0 ? w.bits : w.format == Format::float32 ? 32 : 16;
    const int64_t height = together(count_, most_) == count_
        ? last - first
        : weight_rows(columns_, bits);
    for (int64_t from = first; from < last; from += height) {
      int64_t to = std::min(from + height, last);
      for (int64_t row = 0; row < count_;) {
        int rows = together(count_ - row, most_);
        few_rows(w, from, to, row, rows, y + row * w.rows, scratch.get());
        row += rows;
      }
    }
    for (int64_t row : unsplit_) {
      const float* x = x_ + row * columns_;
      loops().few_rows(
          w, first, last, x, x, 1, y + row * w.rows, scratch.get());
    }
  }

 private:
  char* split_row(int64_t row) const {
    return reinterpret_cast<char*>(split_.get()) + row * split_bytes_;
  }

  void few_rows(
      const Weights& w, int64_t from, int64_t to, int64_t row, int rows,
      float* y, float* scratch) const {
    if (split_bytes_ != 0) {
      loops().integers->few_rows(w, from, to, split_row(row), rows, y);
      return;
    }
    const float* slices = sliced_ ? sliced_.get() : x_;
    loops().few_rows(
        w, from, to, x_ + row * columns_, slices + row * columns_, rows, y,
        scratch);
  }

  const float* x_;
  int64_t count_;
  int64_t columns_;
  int most_;
  int64_t split_bytes_;
  Buffer sliced_;
  Buffer split_;
  // Rows that have no split form.
  std::vector<int64_t> unsplit_;
};

// Four numbers of any processor's.
typedef float Four __attribute__((vector_size(16)));

Four load_four(const float* from) {
  Four four;
  std::memcpy(&four, from, sizeof four);
  return four;
}

// Column i of `rows` by `columns` numbers, `step` apart, becomes row i of `to`.
void transpose(
    const float* from, int64_t step, int64_t rows, int64_t columns, float* to,
    int64_t to_step) {
  const int64_t whole = columns / 4 * 4;
  int64_t row = 0;
  for (; row + 4 <= rows; row += 4) {
    const float* lines = from + row * step;
    for (int64_t i = 0; i < whole; i += 4) {
      Four a = load_four(lines + i), b = load_four(lines + step + i);
      Four c = load_four(lines + 2 * step + i);
      Four d = load_four(lines + 3 * step + i);
      Four left = __builtin_shufflevector(a, b, 0, 4, 1, 5);
      Four right = __builtin_shufflevector(c, d, 0, 4, 1, 5);
      Four turned[4];
      turned[0] = __builtin_shufflevector(left, right, 0, 1, 4, 5);
      turned[1] = __builtin_shufflevector(left, right, 2, 3, 6, 7);
      left = __builtin_shufflevector(a, b, 2, 6, 3, 7);
      right = __builtin_shufflevector(c, d, 2, 6, 3, 7);
      turned[2] = __builtin_shufflevector(left, right, 0, 1, 4, 5);
      turned[3] = __builtin_shufflevector(left, right, 2, 3, 6, 7);
      for (int k = 0; k < 4; ++k) {
        std::memcpy(to + (i + k) * to_step + row, &turned[k], sizeof(Four));
      }
    }
    for (int64_t i = whole; i < columns; ++i) {
      for (int k = 0; k < 4; ++k) {
        to[i * to_step + row + k] = lines[k * step + i];
      }
    }
  }
  for (; row < rows; ++row) {
    for (int64_t i = 0; i < columns; ++i) {
      to[i * to_step + row] = from[row * step + i];
    }
  }
}

// Rows of x as columns, for `Loops::by_columns`, but for a few that would leave most of a run
// of columns empty: these meet the same weights as rows.
class Columns {
 public:
  Columns(const float* x, int64_t count, int64_t size)
      : rest_(count % kLanes <= kMostLying ? count % kLanes : 0),
        count_(count - rest_),
        lanes_((count_ + kLanes - 1) / kLanes * kLanes),
        columns_(buffer(size * lanes_)) {
    transpose(x, size, count_, size, columns_.get(), lanes_);
    for (int64_t i = 0; i < size && count_ < lanes_; ++i) {
      float* column = columns_.get() + i * lanes_;
      std::fill(column + count_, column + lanes_, 0.0f);
    }
    if (rest_ != 0) {
      lying_.emplace(kind_of_lying(size), x + count_ * size, rest_);
    }
  }

  // y of weight rows first..last, which are written out a few at a time where they are not
  // float32.
  void multiply(const Weights& w, int64_t first, int64_t last, float* y) const {
    const bool as_they_are = w.bits == 0 && w.format == Format::float32;
    const int64_t row_bytes = w.columns * (w.bits != 0 ? w.bits : 16) / 8;
    Buffer lines = buffer(kLines * std::max(lanes_, kMostLying));
    Buffer scratch = buffer(as_they_are ? 0 : scratch_floats(w));
    Buffer block = buffer(as_they_are ? 0 : kLines * w.columns);
    for (int64_t row = first; row < last; row += kLines) {
      const int64_t end = std::min(row + kLines, last);
      const float* numbers = block.get();
      const char* next = nullptr;
      int64_t next_bytes = 0;
      if (as_they_are) {
        numbers = static_cast<const float*>(w.data) + row * w.columns;
      } else {
        loops().expand(w, row, end, block.get(), scratch.get());
        next = static_cast<const char*>(w.data) + end * row_bytes;
        next_bytes = std::min(kLines, last - end) * row_bytes;
      }
      loops().by_columns(
          columns_.get(), lanes_, numbers, end - row, w.columns, next,
          next_bytes, lines.get());
      transpose(lines.get(), lanes_, end - row, count_, y + row, w.rows);
      if (lying_) {
        Weights part = kind_of_lying(w.columns);
        part.data = numbers;
        part.rows = end - row;
        lying_->multiply(part, 0, part.rows, lines.get());
        for (int64_t i = 0; i < rest_; ++i) {
          const float* from = lines.get() + i * part.rows;
          std::copy(from, from + part.rows, y + (count_ + i) * w.rows + row);
        }
      }
    }
  }

 private:
  // Weight rows that are taken together.
  static constexpr int64_t kLines = 48;

  static Weights kind_of_lying(int64_t size) {
    Weights kind{};
    kind.format = Format::float32;
    kind.columns = size;
    return kind;
  }

  int64_t rest_;
  int64_t count_;
  int64_t lanes_;
  Buffer columns_;
  std::optional<Ready> lying_;
};

void multiply(
    const float* weights, int64_t height, const Weights& w, const float* x,
    int64_t count, float* y) {
  blas_sgemm_alone(
      kRowMajor, kNoTranspose, kTranspose, int(count), int(height),
      int(w.columns), 1, x, int(w.columns), weights, int(w.columns), 0, y,
      int(w.rows));
}

void in_panels(
    const Weights& w, int64_t first, int64_t last, const float* x,
    int64_t count, float* y) {
  if (w.bits == 0 && w.format == Format::float32) {
    const float* weights = static_cast<const float*>(w.data);
    multiply(weights + first * w.columns, last - first, w, x, count, y + first);
    return;
  }
  int64_t height = kPanelBytes / int64_t(sizeof(float)) / w.columns;
  height = std::min(std::max<int64_t>(height, 16), last - first);
  Buffer scratch = buffer(scratch_floats(w));
  Buffer panel = buffer(height * w.columns);
  for (int64_t row = first; row < last; row += height) {
    int64_t end = std::min(row + height, last);
    loops().expand(w, row, end, panel.get(), scratch.get());
    multiply(panel.get(), end - row, w, x, count, y + row);
  }
}

} // namespace

void product(const Weights& w, const float* x, int64_t count, float* y) {
  if (count == 0 || w.rows == 0) {
    return;
  }
  if (w.columns == 0) {
    std::fill(y, y + count * w.rows, 0.0f);
    return;
  }
  auto share = [&](const auto& part) {
    if (count * w.rows * w.columns < kWorthSharing) {
      part(0, w.rows);
    } else {
      in_parallel(w.rows, kMostColumns, part);
    }
  };
  if (count > most_standing(w)) {
    share([&](int64_t first, int64_t last) {
      in_panels(w, first, last, x, count, y);
    });
    return;
  }
  if (count >= kLeastStanding) {
    const Columns columns(x, count, w.columns);
    share([&](int64_t first, int64_t last) {
      columns.multiply(w, first, last, y);
    });
    return;
  }
  const Ready ready(w, x, count);
  share([&](int64_t first, int64_t last) { ready.multiply(w, first, last, y); });
}

void product_of_rows(
    const Weights& w, int64_t first, int64_t last, const float* x,
    int64_t count, float* y) {
  Ready(w, x, count).multiply(w, first, last, y);
}

} // namespace roundhouse
