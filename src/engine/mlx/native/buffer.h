// Numbers for the time of one computation.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <new>

namespace roundhouse {

// They begin at the start of a cache line: vectors that lie across two cost a second load
// each.
constexpr std::align_val_t kLine{64};

struct Release {
  void operator()(float* numbers) const {
    ::operator delete[](numbers, kLine);
  }
};

using Buffer = std::unique_ptr<float[], Release>;

inline Buffer buffer(int64_t floats) {
  return Buffer(new (kLine) float[std::max<int64_t>(floats, 1)]);
}

} // namespace roundhouse
