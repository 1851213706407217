// Bridges between mlx-c and compilers that lack what it takes for granted.
//
// Included before everything else (`-include`) when mlx-c and the files beside
// this one are compiled on Linux. It is not an interface of its own: what Rust
// calls is declared in `kernels.h`.
#pragma once

#include <cstdint>

// mlx-c formats a few messages with std::format, which GCC offers from version
// 13 on. Older compilers get the one form that mlx-c uses: plain `{}`
// placeholders, filled in order.
#if __has_include(<format>)
#include <format>
#endif
#if !defined(__cpp_lib_format)
#include <sstream>
#include <string>
#include <string_view>

namespace std {
template <typename... Values>
string format(string_view pattern, const Values&... values) {
  ostringstream text;
  auto fill = [&](const auto& value) {
    auto hole = pattern.find("{}");
    if (hole == string_view::npos) {
      return;
    }
    text << pattern.substr(0, hole) << value;
    pattern.remove_prefix(hole + 2);
  };
  (fill(values), ...);
  text << pattern;
  return text.str();
}
} // namespace std
#endif

// On x86-64 mlx-c leaves out its float16 and bfloat16 functions, because the
// compiler has no such types; mlx-rs calls them all the same. Nothing computes
// with the values here, so their bits travel as integers.
#if defined(__x86_64__)
#define MLX_HALF_H
#define HAS_FLOAT16
#define HAS_BFLOAT16
typedef uint16_t float16_t;
typedef uint16_t bfloat16_t;
#endif
