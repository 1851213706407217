// How failures leave C++: no exception may cross into Rust.
#pragma once

#include <exception>
#include <string>

namespace roundhouse {

// Keeps `message` for `roundhouse_last_error`. Returns 1, for `return`.
int fail(std::string message);

// Runs `work`; 0, or 1 with the message of what it threw.
template <class Work>
int guarded(Work work) {
  try {
    work();
    return 0;
  } catch (const std::exception& error) {
    return fail(error.what());
  } catch (...) {
    return fail("an unknown exception");
  }
}

} // namespace roundhouse
