#include "engine/model/safetensors.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <initializer_list>
#include <utility>

#include "engine/base/error.hpp"
#include "tests/engine/tiny_checkpoint.hpp"

namespace cogserve {
namespace {

using testing::HasSubstr;

absl::StatusOr<std::vector<SafetensorsEntry>> read_header(const std::string& file) {
  return read_safetensors_header(std::as_bytes(std::span(file)), "some.safetensors");
}

struct BadHeader {
  std::string header;
  size_t data_bytes;
  std::string reason;
  std::string said;
};

// One tensor "t" of 2x3 f32 with one of its three keys replaced.
std::string tensor_with(const std::string& key, const std::string& value) {
  std::string header = R"({"t":{)";
  for (const auto& [k, v] : std::initializer_list<std::pair<std::string, std::string>>{
           {"dtype", "\"F32\""}, {"shape", "[2,3]"}, {"data_offsets", "[0,24]"}}) {
    if (header.back() != '{') header += ",";
    header += "\"" + k + "\":" + (k == key ? value : v);
  }
  return header + "}}";
}

// Headers wrong as a whole, or as a list of tensors.
std::vector<BadHeader> bad_headers() {
  return {
      {"", 0, "CHECKPOINT_HEADER", "expected a JSON object"},
      {" {}", 0, "CHECKPOINT_HEADER", "expected a JSON object"},
      {"[]", 0, "CHECKPOINT_HEADER", "expected a JSON object"},
      {"{", 0, "CHECKPOINT_HEADER", "invalid JSON"},
      {"{}x", 0, "CHECKPOINT_HEADER", "invalid JSON"},
      {"{\"a\xff\":{}}", 0, "CHECKPOINT_HEADER", "invalid JSON"},
      {R"({"t":{"dtype":"F32","shape":[[1]],"data_offsets":[0,4]}})", 4, "CHECKPOINT_HEADER",
       "nested deeper"},
      {R"({"t":3})", 0, "CHECKPOINT_HEADER", "expected dtype, shape and data_offsets"},
      {R"({"t":[]})", 0, "CHECKPOINT_HEADER", "expected dtype, shape and data_offsets"},
      {R"({"t":{}})", 0, "CHECKPOINT_HEADER", "expected dtype, shape and data_offsets"},
      {R"({"t":{"dtype":"F32","shape":[1]}})", 4, "CHECKPOINT_HEADER", "data_offsets"},
      {R"({"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"more":1}})", 4, "CHECKPOINT_HEADER",
       "data_offsets"},
      {R"({"":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 4, "CHECKPOINT_HEADER",
       "1 to 256 bytes, got 0"},
      {R"({")" + std::string(257, 'n') + R"(":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})",
       4, "CHECKPOINT_HEADER", "1 to 256 bytes, got 257"},
      {R"({"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
       R"("t":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
       8, "CHECKPOINT_HEADER", "occurs twice"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
       R"("t":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})",
       12, "CHECKPOINT_OVERLAP", "overlaps"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
       R"("t":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})",
       8, "CHECKPOINT_OVERLAP", "overlaps"},
      {R"({"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]},)"
       R"("t":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
       16, "CHECKPOINT_OVERLAP", "overlaps"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
       R"("t":{"dtype":"F32","shape":[1],"data_offsets":[8,12]}})",
       12, "CHECKPOINT_GAP", "leaves a gap"},
      {R"({"t":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", 8, "CHECKPOINT_GAP",
       "leaves a gap"},
      {tensor_with("", ""), 25, "CHECKPOINT_GAP", "to end after the last tensor"},
      {tensor_with("", ""), 48, "CHECKPOINT_GAP", "to end after the last tensor"},
      {"{}", 1, "CHECKPOINT_GAP", "to end after the last tensor"},
      {tensor_with("", ""), 23, "CHECKPOINT_TRUNCATED", "only 23"},
      {tensor_with("", ""), 0, "CHECKPOINT_TRUNCATED", "only 0"},
  };
}

// One tensor with a wrong dtype, shape or range of bytes.
std::vector<BadHeader> bad_tensors() {
  std::vector<BadHeader> bad;
  for (const char* dtype : {"\"F64\"", "\"I64\"", "\"I16\"", "\"BOOL\"", "\"F8_E4M3\"", "\"f32\"",
                            "\"\"", "null", "4", "[]"}) {
    bad.push_back({tensor_with("dtype", dtype), 24, "CHECKPOINT_DTYPE",
                   "expected BF16, F16, F32, I32, I8 or U8, got " + std::string(dtype)});
  }
  for (const char* shape :
       {"null", "6", "\"2,3\"", "{}", "[-2,3]", "[2.0,3]", "[\"2\",3]", "[null]",
        "[1,1,1,1,1,1,1,2,3]", "[18446744073709551615,2]", "[4294967296,4294967296]",
        "[9223372036854775808,0]", "[4611686018427387904,1]", "[0,18446744073709551615]"}) {
    bad.push_back({tensor_with("shape", shape), 24, "CHECKPOINT_HEADER", "shape: expected"});
  }
  for (const char* shape : {"[2,2]", "[7]", "[]", "[0]", "[2,3,2]"}) {
    bad.push_back({tensor_with("shape", shape), 24, "CHECKPOINT_HEADER", "data_offsets to 24"});
  }
  for (const char* offsets : {"null", "24", "[]", "[0]", "[0,24,24]", "[-1,23]", "[0.0,24]",
                              "[\"0\",24]", "[24,0]", "[0,1e2]", "[0,18446744073709551616]"}) {
    bad.push_back({tensor_with("data_offsets", offsets), 24, "CHECKPOINT_HEADER",
                   "data_offsets: expected [begin, end]"});
  }
  bad.push_back({tensor_with("data_offsets", "[0,18446744073709551615]"), 24, "CHECKPOINT_HEADER",
                 "come to 24 bytes"});
  bad.push_back({tensor_with("data_offsets", "[18446744073709551591,18446744073709551615]"), 24,
                 "CHECKPOINT_TRUNCATED", "ends at byte"});
  return bad;
}

TEST(SafetensorsHeader, every_malformed_header_is_refused_with_its_reason) {
  std::vector<BadHeader> cases = bad_headers();
  for (BadHeader& bad : bad_tensors()) cases.push_back(std::move(bad));
  EXPECT_GE(cases.size(), 60u);
  for (const BadHeader& bad : cases) {
    SCOPED_TRACE(bad.header.substr(0, 120));
    const auto entries = read_header(safetensors_file(bad.header, bad.data_bytes));
    ASSERT_FALSE(entries.ok());
    EXPECT_EQ(error_reason(entries.status()), bad.reason);
    EXPECT_EQ(entries.status().code(), bad.reason == "CHECKPOINT_TRUNCATED"
                                           ? absl::StatusCode::kDataLoss
                                           : absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(entries.status().message(), HasSubstr("some.safetensors: "));
    EXPECT_THAT(entries.status().message(), HasSubstr(bad.said));
    if (bad.header.find("{\"t\":{\"dtype\"") == 0 && bad.said.find("JSON") == std::string::npos &&
        bad.reason != "CHECKPOINT_GAP" && bad.said != "nested deeper" &&
        bad.said != "occurs twice") {
      EXPECT_THAT(entries.status().message(), HasSubstr("tensor 't'"));
    }
  }
}

TEST(SafetensorsHeader, reads_what_is_well_formed) {
  const auto entries = read_header(
      safetensors_file(R"({"__metadata__":{"format":"pt"},)"
                       R"("b":{"dtype":"BF16","shape":[3],"data_offsets":[8,14]},)"
                       R"("scalar":{"dtype":"F32","shape":[],"data_offsets":[14,18]},)"
                       R"("a":{"dtype":"F16","shape":[2,1,2],"data_offsets":[0,8]}}   )",
                       18));
  ASSERT_TRUE(entries.ok()) << entries.status();
  ASSERT_EQ(entries->size(), 3u);
  EXPECT_EQ((*entries)[0].name, "a");
  EXPECT_EQ((*entries)[0].type, StoredType::kF16);
  EXPECT_EQ((*entries)[0].shape, (std::vector<int64_t>{2, 1, 2}));
  EXPECT_EQ((*entries)[1].name, "b");
  EXPECT_EQ((*entries)[1].offset - (*entries)[0].offset, 8u);
  EXPECT_EQ((*entries)[2].bytes, 4u);
}

TEST(SafetensorsHeader, reads_the_integers_of_quantised_matrices) {
  const auto entries = read_header(safetensors_file(std::vector<TinyTensor>{
      {"a", "I32", {3}}, {"b", "I8", {5}}, {"c", "U8", {2, 2}}, {"d", "BF16", {1}}}));
  ASSERT_TRUE(entries.ok()) << entries.status();
  ASSERT_EQ(entries->size(), 4u);
  EXPECT_EQ((*entries)[0].type, StoredType::kI32);
  EXPECT_EQ((*entries)[0].bytes, 12u);
  EXPECT_EQ((*entries)[1].type, StoredType::kI8);
  EXPECT_EQ((*entries)[1].bytes, 5u);
  EXPECT_EQ((*entries)[2].type, StoredType::kU8);
  EXPECT_EQ((*entries)[2].bytes, 4u);
  EXPECT_FALSE(float_dtype((*entries)[0].type));
  EXPECT_EQ(float_dtype((*entries)[3].type), DType::kBF16);
}

TEST(SafetensorsHeader, a_length_beyond_the_limit_is_refused_unread) {
  for (const uint64_t length : {kMaxHeaderBytes + 1, uint64_t{1} << 40, ~uint64_t{0}}) {
    std::string file;
    for (int i = 0; i < 8; ++i) file += static_cast<char>(length >> (8 * i));
    const auto entries = read_header(file + "{}");
    EXPECT_EQ(error_reason(entries.status()), "CHECKPOINT_HEADER");
    EXPECT_THAT(entries.status().message(), HasSubstr("at most 16777216 bytes"));
  }
}

TEST(SafetensorsHeader, more_tensors_than_the_limit_are_refused) {
  std::string header = "{";
  for (size_t i = 0; i <= kMaxTensors; ++i) {
    header += (i == 0 ? "\"" : ",\"") + std::to_string(i) + "\":0";
  }
  const auto entries = read_header(safetensors_file(header + "}", 0));
  EXPECT_EQ(error_reason(entries.status()), "CHECKPOINT_HEADER");
  EXPECT_THAT(entries.status().message(), HasSubstr("at most 65536 tensors, got 65537"));
}

TEST(SafetensorsHeader, names_in_messages_are_escaped) {
  const auto entries = read_header(safetensors_file(R"({"a\n\u0007b":{}})", 0));
  EXPECT_THAT(entries.status().message(), HasSubstr("'a\\n\\x07"));
}

TEST(SafetensorsHeader, every_truncation_of_a_file_is_refused) {
  const std::string file = safetensors_file(
      std::vector<TinyTensor>{{"a", "F32", {5, 7}}, {"b", "BF16", {30}}, {"c", "F16", {9}}});
  ASSERT_TRUE(read_header(file).ok());
  ASSERT_GE(file.size(), 200u);
  for (size_t size = 0; size < file.size(); ++size) {
    const auto entries = read_header(file.substr(0, size));
    ASSERT_FALSE(entries.ok()) << size;
    EXPECT_EQ(error_reason(entries.status()), "CHECKPOINT_TRUNCATED") << size;
    EXPECT_TRUE(absl::IsDataLoss(entries.status())) << size;
  }
}

TEST(SafetensorsHeader, a_flipped_bit_never_yields_tensors_outside_the_file) {
  const std::string file = safetensors_file(
      std::vector<TinyTensor>{{"a", "F32", {5, 7}}, {"b", "BF16", {30}}, {"c", "F16", {9}}});
  const size_t header_end = file.rfind('}') + 1;
  int refused = 0;
  for (size_t bit = 0; bit < 8 * header_end; ++bit) {
    std::string flipped = file;
    flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ (1 << (bit % 8)));
    const auto entries = read_header(flipped);
    refused += !entries.ok();
    if (!entries.ok()) continue;
    size_t at = file.size();
    for (auto entry = entries->rbegin(); entry != entries->rend(); ++entry) {
      EXPECT_EQ(entry->offset + entry->bytes, at) << bit;
      at = entry->offset;
    }
  }
  EXPECT_GE(refused, 200);
}

}  // namespace
}  // namespace cogserve
