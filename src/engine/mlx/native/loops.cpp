// Which inner loops this processor gets.
#include "loops.h"

#include <atomic>

namespace roundhouse {
namespace {

// The loops of an instruction set, if this processor has it.
const Loops* loops_of(Instructions instructions) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  bool avx512 = __builtin_cpu_supports("avx512f") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512dq");
  if (instructions == Instructions::avx512_vnni) {
    bool present = avx512 && __builtin_cpu_supports("avx512vnni");
    return present ? &loops_avx512_vnni() : nullptr;
  }
  if (instructions == Instructions::avx512) {
    return avx512 ? &loops_avx512() : nullptr;
  }
  if (instructions == Instructions::avx2) {
    bool present = __builtin_cpu_supports("avx2") &&
        __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    return present ? &loops_avx2() : nullptr;
  }
#endif
  return instructions == Instructions::portable ? &loops_portable() : nullptr;
}

const Loops* best() {
  for (auto instructions :
       {Instructions::avx512_vnni, Instructions::avx512, Instructions::avx2}) {
    if (const Loops* found = loops_of(instructions)) {
      return found;
    }
  }
  return &loops_portable();
}

std::atomic<const Loops*> chosen{best()};

} // namespace

const Loops& loops() {
  return *chosen.load(std::memory_order_relaxed);
}

bool use_instructions(Instructions instructions) {
  const Loops* found = loops_of(instructions);
  if (found != nullptr) {
    chosen.store(found, std::memory_order_relaxed);
  }
  return found != nullptr;
}

} // namespace roundhouse
