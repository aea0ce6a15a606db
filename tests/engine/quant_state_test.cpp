#include "engine/model/quant_state.hpp"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace cogserve {
namespace {

using nlohmann::json;

json nf4_state() {
  return {{"quant_type", "nf4"}, {"blocksize", 64}, {"dtype", "bfloat16"}, {"shape", {8, 128}}};
}

json nested_state() {
  json state = nf4_state();
  state.update({{"nested_blocksize", 256}, {"nested_dtype", "float32"}, {"nested_offset", 0.0451}});
  return state;
}

TEST(QuantState, reads_what_it_says) {
  const QuantState plain = parse_quant_state(nf4_state().dump()).value();
  EXPECT_EQ(plain.codebook, "nf4");
  EXPECT_EQ(plain.blocksize, 64);
  EXPECT_EQ(plain.dtype, DType::kBF16);
  EXPECT_EQ(plain.shape, (std::vector<int64_t>{8, 128}));
  EXPECT_FALSE(plain.nested.has_value());

  const QuantState nested = parse_quant_state(nested_state().dump()).value();
  ASSERT_TRUE(nested.nested.has_value());
  EXPECT_EQ(nested.nested->blocksize, 256);
  EXPECT_EQ(nested.nested->offset, 0.0451f);
}

TEST(QuantState, every_truncation_is_refused) {
  const std::string text = nested_state().dump();
  ASSERT_TRUE(parse_quant_state(text).ok());
  for (size_t size = 0; size < text.size(); ++size) {
    EXPECT_FALSE(parse_quant_state(text.substr(0, size)).ok()) << size;
  }
}

TEST(QuantState, a_flipped_bit_never_yields_sizes_below_one) {
  const std::string text = nested_state().dump();
  int refused = 0;
  for (size_t bit = 0; bit < 8 * text.size(); ++bit) {
    std::string flipped = text;
    flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ (1 << (bit % 8)));
    const auto state = parse_quant_state(flipped);
    refused += !state.ok();
    if (!state.ok()) continue;
    EXPECT_GE(state->blocksize, 1) << flipped;
    ASSERT_EQ(state->shape.size(), 2u) << flipped;
    EXPECT_GE(state->nested.value_or(NestedState{1, 0.0f}).blocksize, 1) << flipped;
  }
  EXPECT_GE(refused, 500);
}

TEST(QuantState, more_keys_than_are_known_do_no_harm) {
  json state = nf4_state();
  state["written_by"] = "a newer version";
  EXPECT_TRUE(parse_quant_state(state.dump()).ok());
}

}  // namespace
}  // namespace cogserve
