// What mlx-rs and libmlx expect from the platform and Linux does not have.
//
// Part of `libroundhouse_native.so`, which the binary links directly, so that
// its functions are found before those of the libraries that libmlx brings.
#include <cstdint>
#include <ctime>

extern "C" {

// mlx-rs seeds its random state with the Mac's coarse clock, in ticks of any
// length. Nanoseconds of the monotonic clock serve as well.
uint64_t mach_approximate_time() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return uint64_t(now.tv_sec) * 1000000000u + uint64_t(now.tv_nsec);
}
}
