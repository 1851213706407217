// Rows of keys and values copied from array to array, run by run: MLX copies what
// does not lie in one run number by number. At once, not as nodes of a graph: what
// goes in has been computed, and nothing is waited for.
#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <vector>

#include "error.h"
#include "kernels.h"
#include "mlx/c/private/array.h"
#include "mlx/mlx.h"
#include "threads.h"

namespace mx = mlx::core;

namespace roundhouse {
namespace {

// Bytes that are copied from one place to another; from nowhere they are zeros.
struct Run {
  const char* from;
  char* to;
  size_t bytes;
};

// Bytes that are worth another thread.
constexpr size_t kShare = 1 << 19;

void copy(const std::vector<Run>& runs) {
  size_t bytes = 0;
  for (const auto& run : runs) {
    bytes += run.bytes;
  }
  auto some = [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      if (runs[i].from == nullptr) {
        std::memset(runs[i].to, 0, runs[i].bytes);
      } else {
        std::memcpy(runs[i].to, runs[i].from, runs[i].bytes);
      }
    }
  };
  int64_t count = int64_t(runs.size());
  if (bytes < kShare) {
    some(0, count);
  } else {
    in_parallel(count, 1, some);
  }
}

// The array with its numbers one after the other: itself, where they lie so.
mx::array computed(const mlx_array& handle, size_t dimensions) {
  mx::array array = mlx_array_get_(handle);
  if (array.ndim() != dimensions) {
    throw std::invalid_argument("rows of another number of dimensions");
  }
  array.eval();
  if (!array.flags().row_contiguous) {
    array = mx::contiguous(array);
    array.eval();
  }
  return array;
}

mx::array empty(mx::Shape shape, mx::Dtype dtype) {
  mx::array array(std::move(shape), dtype, nullptr, {});
  array.set_data(mx::allocator::malloc(array.nbytes()));
  array.set_status(mx::array::Status::available);
  return array;
}

// Bytes of a row of the last dimension.
size_t bytes_of_row(const mx::array& array) {
  return array.shape(-1) * array.itemsize();
}

mx::array taken(const mlx_array* handles, size_t count, int first, int last) {
  std::vector<mx::array> kinds;
  for (size_t i = 0; i < count; ++i) {
    kinds.push_back(computed(handles[i], 3));
    const auto& kind = kinds.back();
    if (kind.shape() != kinds[0].shape() || kind.dtype() != kinds[0].dtype()) {
      throw std::invalid_argument("keys and values must have one form");
    }
  }
  if (count == 0 || first < 0 || last < first || last > kinds[0].shape(1)) {
    throw std::invalid_argument("rows that are not there");
  }
  int heads = kinds[0].shape(0), width = kinds[0].shape(2);
  mx::array result = empty(
      mx::Shape{int(count), heads, last - first, width}, kinds[0].dtype());
  size_t row = bytes_of_row(result), room = kinds[0].shape(1);
  char* to = result.data<char>();
  std::vector<Run> runs;
  for (const auto& kind : kinds) {
    for (int head = 0; head < heads; ++head) {
      const char* from = kind.data<char>() + (head * room + first) * row;
      runs.push_back(Run{from, to, (last - first) * row});
      to += (last - first) * row;
    }
  }
  copy(runs);
  return result;
}

mx::array joined(
    const mlx_array* handles, const int* rows, size_t count, int kind,
    int room) {
  std::vector<mx::array> pieces;
  int64_t in_all = 0;
  for (size_t i = 0; i < count; ++i) {
    pieces.push_back(computed(handles[i], 4));
    const auto &piece = pieces.back(), &first = pieces[0];
    if (piece.shape(1) != first.shape(1) || piece.shape(3) != first.shape(3) ||
        piece.dtype() != first.dtype()) {
      throw std::invalid_argument("pieces must have one form");
    }
    if (kind < 0 || kind >= piece.shape(0) || rows[i] < 0 ||
        rows[i] > piece.shape(2)) {
      throw std::invalid_argument("rows that are not there");
    }
    in_all += rows[i];
  }
  if (count == 0 || in_all > room) {
    throw std::invalid_argument("pieces that do not fit the room");
  }
  int heads = pieces[0].shape(1), width = pieces[0].shape(3);
  mx::array result = empty(mx::Shape{heads, room, width}, pieces[0].dtype());
  size_t row = bytes_of_row(result);
  char* to = result.data<char>();
  std::vector<Run> runs;
  for (int64_t head = 0; head < heads; ++head) {
    for (size_t i = 0; i < count; ++i) {
      int64_t at = (kind * heads + head) * int64_t(pieces[i].shape(2));
      const char* from = pieces[i].data<char>() + at * row;
      runs.push_back(Run{from, to, rows[i] * row});
      to += rows[i] * row;
    }
    runs.push_back(Run{nullptr, to, (room - in_all) * row});
    to += (room - in_all) * row;
  }
  copy(runs);
  return result;
}

} // namespace
} // namespace roundhouse

using namespace roundhouse;

extern "C" {

int roundhouse_rows_taken(
    mlx_array* result, const mlx_array* kinds, size_t count, int first,
    int last) {
  return guarded([&] {
    mlx_array_set_(*result, taken(kinds, count, first, last));
  });
}

int roundhouse_rows_joined(
    mlx_array* result, const mlx_array* pieces, const int* rows, size_t count,
    int kind, int room) {
  return guarded([&] {
    mlx_array_set_(*result, joined(pieces, rows, count, kind, room));
  });
}
}
