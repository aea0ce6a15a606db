// The two or three flags a benchmark takes beside Google Benchmark's own.
#pragma once

#include <cstdlib>
#include <string>
#include <string_view>

namespace cogserve::bench {

// The text behind `name`, which is taken out of the arguments; `fallback` if it is not there.
inline std::string take_text(int& argc, char** argv, std::string_view name, std::string fallback) {
  for (int i = 1; i + 1 < argc; ++i) {
    if (argv[i] != name) continue;
    fallback = argv[i + 1];
    for (int j = i; j + 2 <= argc; ++j) argv[j] = argv[j + 2];
    argc -= 2;
    break;
  }
  return fallback;
}

// The same with a number.
inline int take_flag(int& argc, char** argv, std::string_view name, int fallback) {
  return std::atoi(take_text(argc, argv, name, std::to_string(fallback)).c_str());
}

}  // namespace cogserve::bench
