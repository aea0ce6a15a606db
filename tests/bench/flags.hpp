// The two or three flags a benchmark takes beside Google Benchmark's own.
#pragma once

#include <cstdlib>
#include <string_view>

namespace cogserve::bench {

// The number behind `name`, which is taken out of the arguments; `fallback` if it is not there.
inline int take_flag(int& argc, char** argv, std::string_view name, int fallback) {
  for (int i = 1; i + 1 < argc; ++i) {
    if (argv[i] != name) continue;
    const int value = std::atoi(argv[i + 1]);
    for (int j = i; j + 2 <= argc; ++j) argv[j] = argv[j + 2];
    argc -= 2;
    return value;
  }
  return fallback;
}

}  // namespace cogserve::bench
