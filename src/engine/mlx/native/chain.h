// Several operations on the same few rows as one node of MLX's graph: what is
// between them is no array, and MLX evaluates, allocates and hands over once for all
// of them. `chain.cpp` is the node, `chain_steps.cpp` what it may be made of.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "arrays.h"

namespace roundhouse {

// What the steps of a chain work on: for each of its numbers `rows` rows, and the
// caches that they write to.
struct Work {
  int64_t rows;
  std::vector<float*> numbers;
  std::vector<float*> caches;
};

using Step = std::function<void(const Work&)>;

struct Chain {
  int rows;
  // What has to be there before the steps run; the first are the rows that go in.
  Arrays inputs;
  // Of each of its numbers; the first are those that go in.
  std::vector<int> widths;
  std::vector<Step> steps;
  // The caches that steps write to, [heads, room, size].
  Arrays caches;
  // Which of its numbers come out.
  int result = 0;

  int width(int numbers) const {
    require(
        numbers >= 0 && size_t(numbers) < widths.size(),
        "the chain has no such numbers");
    return widths[numbers];
  }

  // An array that steps read: they hold it themselves.
  mlx::core::array read(const mlx::core::array& array) {
    mlx::core::array whole = in_order(array);
    if (!is_in_order(whole)) {
      inputs.push_back(whole);
    }
    return whole;
  }

  Matrix read(Matrix matrix) {
    for (const auto& array : matrix.arrays) {
      if (!is_in_order(array)) {
        inputs.push_back(array);
      }
    }
    return matrix;
  }

  // The place of a cache that steps write to.
  int write(const mlx::core::array& cache) {
    // One whose numbers are there is not told to MLX: as an input it would have
    // more than one owner, and would be copied.
    if (cache.status() == mlx::core::array::Status::unscheduled) {
      inputs.push_back(cache);
    }
    caches.push_back(cache);
    return int(caches.size()) - 1;
  }

  int add(int width, Step step) {
    steps.push_back(std::move(step));
    widths.push_back(width);
    return int(widths.size()) - 1;
  }

  // Computes what comes out of x; `written` are the caches, as they are before.
  void run(
      const mlx::core::array& x, mlx::core::array& out, Arrays& written) const;
};

// The chain that a handle stands for.
Chain& chain_of(void* handle);

} // namespace roundhouse
