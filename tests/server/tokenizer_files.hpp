// The fixtures in tests/data/tokenizer, for the tests of server/text. COGSERVE_TOKENIZER_DATA names
// another folder, made by tests/reference/make_tokenizer.py from another tokenizer.json.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <stdexcept>
#include <string>

#include "server/text/tokenizer.hpp"

namespace cogserve::text {

inline std::string read_tokenizer_data(const std::string& name) {
  const char* const other = std::getenv("COGSERVE_TOKENIZER_DATA");
  const std::string folder = other != nullptr ? other : COGSERVE_SOURCE_DIR "/tests/data/tokenizer";
  std::ifstream stream(folder + "/" + name);
  EXPECT_TRUE(stream) << name << " is missing";
  std::ostringstream content;
  content << stream.rdbuf();
  return content.str();
}

inline nlohmann::json tokenizer_json() {
  return nlohmann::json::parse(read_tokenizer_data("tokenizer.json"));
}

inline Tokenizer parse_or_die(const nlohmann::json& file) {
  absl::StatusOr<Tokenizer> tokenizer = Tokenizer::parse(file.dump());
  if (!tokenizer.ok()) throw std::runtime_error(tokenizer.status().ToString());
  return *std::move(tokenizer);
}

// Made once; a Tokenizer is immutable.
inline const Tokenizer& small_tokenizer() {
  static const Tokenizer tokenizer = parse_or_die(tokenizer_json());
  return tokenizer;
}

}  // namespace cogserve::text
