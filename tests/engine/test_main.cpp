// main() of the tests that run on any backend.
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>

#include "tests/engine/test_backend.hpp"

namespace cogserve {
namespace {

TestOptions& options() {
  static TestOptions told;
  return told;
}

// False if an argument is not known.
bool read_options(int argc, char** argv) {
  for (int i = 1; i < argc; i += 2) {
    const std::string_view flag = argv[i];
    if (i + 1 == argc) return false;
    if (flag == "--device") {
      options().device = argv[i + 1];
    } else if (flag == "--longest") {
      options().longest = std::atoi(argv[i + 1]);
    } else {
      return false;
    }
  }
  return true;
}

}  // namespace

const TestOptions& test_options() { return options(); }

}  // namespace cogserve

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  if (!cogserve::read_options(argc, argv)) {
    std::fprintf(stderr, "usage: %s [--device cpu|cpu:bf16|cuda:<n>] [--longest TOKENS]\n",
                 argv[0]);
    return 2;
  }
  return RUN_ALL_TESTS();
}
