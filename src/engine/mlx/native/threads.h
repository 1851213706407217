// Splitting one product over cores. Not a general thread pool: one job at a
// time, in equal pieces that threads take as they come.
#pragma once

#include <cstdint>
#include <functional>

namespace roundhouse {

// How many threads a job may use, the calling one among them.
void set_threads(int count);
int threads();

// Calls `work(first, last)` for ranges that together are 0..count, each a
// multiple of `step` long but the last. Returns when all are done.
void in_parallel(
    int64_t count, int64_t step,
    const std::function<void(int64_t first, int64_t last)>& work);

} // namespace roundhouse
