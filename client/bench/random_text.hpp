// Meaningless English for load tests.
#pragma once

#include <cstdint>
#include <random>
#include <string>

namespace cogserve::client {

// `words` common words separated by spaces; at least one.
std::string random_text(int words, std::mt19937_64* random);

}  // namespace cogserve::client
