#include "engine/model/checkpoint.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>

#include "engine/base/error.hpp"
#include "engine/model/weights.hpp"
#include "tests/engine/tiny_checkpoint.hpp"
#include "tests/temporary_directory.hpp"

namespace cogserve {
namespace {

using nlohmann::json;
using testing::HasSubstr;

constexpr char kFile[] = "model.safetensors";
constexpr char kIndex[] = "model.safetensors.index.json";

std::string described(absl::StatusCode code, const std::string& reason) {
  return absl::StatusCodeToString(code) + " / " + reason;
}
std::string described(const absl::Status& status) {
  return described(status.code(), error_reason(status));
}

// Every required tensor, then `finish`: what a start with this directory would say.
absl::Status check_directory(const TemporaryDirectory& directory) {
  absl::StatusOr<Checkpoint> checkpoint = Checkpoint::open(directory.path());
  if (!checkpoint.ok()) return checkpoint.status();
  for (const TinyTensor& tensor : tensors_of(tiny_config())) {
    const auto stored = checkpoint->require(tensor.name, tensor.shape);
    if (!stored.ok()) return stored.status();
    const auto content = checkpoint->read(*stored);
    if (!content.ok()) return content.status();
    checkpoint->release(*stored);
  }
  return checkpoint->finish();
}

struct Shard {
  std::string name;
  std::vector<TinyTensor> tensors;
};

// The tiny model in three shards with its index, to be damaged before it is written.
struct Sharded {
  Sharded() {
    const std::vector<TinyTensor> tensors = tensors_of(tiny_config());
    for (int i = 0; i < 3; ++i)
      shards.push_back({"shard-" + std::to_string(i) + ".safetensors", {}});
    for (size_t i = 0; i < tensors.size(); ++i) {
      Shard& shard = shards[i * 3 / tensors.size()];
      shard.tensors.push_back(tensors[i]);
      index["weight_map"][tensors[i].name] = shard.name;
    }
  }

  void write(const TemporaryDirectory& directory) const {
    for (const Shard& shard : shards) directory.write(shard.name, safetensors_file(shard.tensors));
    directory.write(kIndex, index.dump());
  }

  std::vector<Shard> shards;
  json index;
};

TEST(Checkpoint, a_whole_one_is_taken_in_one_file_and_in_three) {
  const TemporaryDirectory one;
  one.write(kFile, safetensors_file(tensors_of(tiny_config())));
  EXPECT_TRUE(check_directory(one).ok()) << check_directory(one);

  const TemporaryDirectory three;
  Sharded().write(three);
  EXPECT_TRUE(check_directory(three).ok()) << check_directory(three);
}

TEST(Checkpoint, dtypes_may_be_mixed) {
  std::vector<TinyTensor> tensors = tensors_of(tiny_config());
  for (size_t i = 0; i < tensors.size(); ++i) {
    tensors[i].dtype = std::vector<std::string>{"F32", "F16", "BF16"}[i % 3];
  }
  const TemporaryDirectory directory;
  directory.write(kFile, safetensors_file(tensors));
  EXPECT_TRUE(check_directory(directory).ok()) << check_directory(directory);
}

TEST(Checkpoint, stored_inverse_frequencies_are_ignored) {
  std::vector<TinyTensor> tensors = tensors_of(tiny_config());
  tensors.push_back({"model.layers.0.self_attn.rotary_emb.inv_freq", "F32", {2}});
  tensors.push_back({"model.layers.1.self_attn.rotary_emb.inv_freq", "BF16", {77}});
  const TemporaryDirectory directory;
  directory.write(kFile, safetensors_file(tensors));
  EXPECT_TRUE(check_directory(directory).ok()) << check_directory(directory);
}

TEST(Checkpoint, each_missing_tensor_is_named) {
  const std::vector<TinyTensor> tensors = tensors_of(tiny_config());
  for (size_t missing = 0; missing < tensors.size(); ++missing) {
    std::vector<TinyTensor> rest = tensors;
    rest.erase(rest.begin() + missing);
    const TemporaryDirectory directory;
    directory.write(kFile, safetensors_file(rest));
    const absl::Status status = check_directory(directory);
    EXPECT_EQ(described(status),
              described(absl::StatusCode::kNotFound, "CHECKPOINT_MISSING_TENSOR"));
    EXPECT_EQ(error_field(status), tensors[missing].name);
    EXPECT_THAT(status.message(), HasSubstr("'" + tensors[missing].name + "': expected ["));
    EXPECT_THAT(status.message(), HasSubstr(directory.path()));
  }
}

TEST(Checkpoint, each_tensor_of_another_shape_is_named_with_both_shapes) {
  const std::vector<TinyTensor> tensors = tensors_of(tiny_config());
  for (size_t wrong = 0; wrong < tensors.size(); ++wrong) {
    std::vector<TinyTensor> changed = tensors;
    changed[wrong].shape.back() += 1;
    const TemporaryDirectory directory;
    directory.write(kFile, safetensors_file(changed));
    const absl::Status status = check_directory(directory);
    EXPECT_EQ(described(status), described(absl::StatusCode::kInvalidArgument, "CHECKPOINT_SHAPE"));
    EXPECT_THAT(status.message(), HasSubstr("model.safetensors: tensor '" + tensors[wrong].name +
                                            "': expected " + shape_string(tensors[wrong].shape) +
                                            ", got " + shape_string(changed[wrong].shape)));
  }
}

TEST(Checkpoint, integers_are_no_weights_of_a_dense_model) {
  const std::vector<TinyTensor> tensors = tensors_of(tiny_config());
  for (size_t wrong = 0; wrong < tensors.size(); ++wrong) {
    for (const std::string dtype : {"I32", "I8", "U8"}) {
      std::vector<TinyTensor> changed = tensors;
      changed[wrong].dtype = dtype;
      const TemporaryDirectory directory;
      directory.write(kFile, safetensors_file(changed));
      const absl::Status status = check_directory(directory);
      EXPECT_EQ(described(status),
                described(absl::StatusCode::kInvalidArgument, "CHECKPOINT_DTYPE"));
      EXPECT_THAT(status.message(), HasSubstr("model.safetensors: tensor '" + tensors[wrong].name +
                                              "': expected BF16, F16 or F32, got " + dtype));
    }
  }
}

TEST(Checkpoint, a_transposed_or_flattened_shape_is_another_shape) {
  for (const std::vector<int64_t>& shape : {std::vector<int64_t>{16, 32}, {512}, {1, 32, 16}}) {
    std::vector<TinyTensor> tensors = tensors_of(tiny_config());
    tensors[0].shape = shape;
    const TemporaryDirectory directory;
    directory.write(kFile, safetensors_file(tensors));
    EXPECT_EQ(error_reason(check_directory(directory)), "CHECKPOINT_SHAPE");
  }
}

TEST(Checkpoint, an_extra_tensor_is_named) {
  for (const std::string name : {"model.layers.2.input_layernorm.weight", "lm_head.bias", "x",
                                 "rotary_emb.inv_freq", "model.layers.0.inv_freq"}) {
    std::vector<TinyTensor> tensors = tensors_of(tiny_config());
    tensors.push_back({name, "F32", {3}});
    const TemporaryDirectory directory;
    directory.write(kFile, safetensors_file(tensors));
    const absl::Status status = check_directory(directory);
    EXPECT_EQ(described(status),
              described(absl::StatusCode::kInvalidArgument, "CHECKPOINT_EXTRA_TENSOR"));
    EXPECT_THAT(status.message(), HasSubstr("model.safetensors: tensor '" + name +
                                            "': expected no such tensor, got [3]"));
  }
}

TEST(Checkpoint, a_short_file_is_refused_by_name) {
  const std::string whole = safetensors_file(tensors_of(tiny_config()));
  for (int i = 0; i < 40; ++i) {
    const TemporaryDirectory directory;
    directory.write(kFile, whole.substr(0, whole.size() * i / 40));
    const absl::Status status = check_directory(directory);
    EXPECT_EQ(described(status), described(absl::StatusCode::kDataLoss, "CHECKPOINT_TRUNCATED"));
    EXPECT_THAT(status.message(), HasSubstr(directory.path() + "/model.safetensors"));
  }
}

TEST(Checkpoint, a_file_that_shrinks_while_it_is_read_is_refused) {
  const TemporaryDirectory directory;
  directory.write(kFile, safetensors_file(tensors_of(tiny_config())));
  auto checkpoint = Checkpoint::open(directory.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const auto stored = checkpoint->require("model.norm.weight", {16});
  ASSERT_TRUE(stored.ok()) << stored.status();
  std::filesystem::resize_file(directory.path() + "/" + kFile, 100);
  const auto content = checkpoint->read(*stored);
  EXPECT_EQ(described(content.status()),
            described(absl::StatusCode::kDataLoss, "CHECKPOINT_TRUNCATED"));
  EXPECT_THAT(content.status().message(), HasSubstr("tensor 'model.norm.weight'"));
}

struct BadDirectory {
  std::string what;
  std::function<void(const TemporaryDirectory&)> make;
  absl::StatusCode code;
  std::string reason;
  std::string said;
};

void link(const TemporaryDirectory& directory, const std::string& target, const std::string& name) {
  std::filesystem::create_symlink(target, directory.path() + "/" + name);
}

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr auto kNotFound = absl::StatusCode::kNotFound;

// Files that are not there, not files, or not safetensors.
std::vector<BadDirectory> bad_files() {
  std::vector<BadDirectory> bad = {
      {"empty", [](const auto&) {}, kNotFound, "CHECKPOINT_NOT_FOUND", "got neither"},
      {"vanished", [](const auto& d) { std::filesystem::remove_all(d.path()); }, kNotFound,
       "CHECKPOINT_NOT_FOUND", "got neither"},
      {"file is a directory",
       [](const auto& d) { std::filesystem::create_directory(d.path() + "/" + kFile); }, kInvalid,
       "FILE_TYPE", "not a regular file"},
      {"file links out", [](const auto& d) { link(d, "/etc/passwd", kFile); }, kInvalid,
       "FILE_OUTSIDE", "leads out of the model directory"},
      {"index links out", [](const auto& d) { link(d, "/etc/passwd", kIndex); }, kInvalid,
       "FILE_OUTSIDE", "leads out of the model directory"},
  };
  for (const char* extension : {".bin", ".pt", ".pth", ".pkl", ".ckpt", ".gguf"}) {
    const std::string name = std::string("pytorch_model") + extension;
    bad.push_back({"only " + name, [name](const auto& d) { d.write(name, "\x80\x02}q."); },
                   kInvalid, "CHECKPOINT_FORMAT",
                   name + ": " + extension + " files are never read"});
  }
  return bad;
}

// An index that is malformed, or names files that it may not name.
std::vector<BadDirectory> bad_indexes() {
  std::vector<BadDirectory> bad = {
      {"index is no JSON", [](const auto& d) { d.write(kIndex, "{"); }, kInvalid,
       "CHECKPOINT_INDEX", "invalid JSON"},
      {"index is a list", [](const auto& d) { d.write(kIndex, "[]"); }, kInvalid,
       "CHECKPOINT_INDEX", "weight_map: expected an object"},
      {"index has no map", [](const auto& d) { d.write(kIndex, "{}"); }, kInvalid,
       "CHECKPOINT_INDEX", "weight_map: expected an object"},
      {"index has an empty map", [](const auto& d) { d.write(kIndex, R"({"weight_map":{}})"); },
       kInvalid, "CHECKPOINT_INDEX", "expected tensors, got none"},
      {"index maps to a list", [](const auto& d) { d.write(kIndex, R"({"weight_map":[]})"); },
       kInvalid, "CHECKPOINT_INDEX", "weight_map: expected an object"},
      {"index maps to a number",
       [](const auto& d) { d.write(kIndex, R"({"weight_map":{"x":1}})"); }, kInvalid,
       "CHECKPOINT_INDEX", "tensor 'x': expected a file name, got number"},
      {"index names one tensor twice",
       [](const auto& d) { d.write(kIndex, R"({"weight_map":{"x":"a","x":"b"}})"); }, kInvalid,
       "CHECKPOINT_INDEX", "occurs twice"},
      {"too many shards",
       [](const auto& d) {
         json index;
         for (int i = 0; i < 1025; ++i) {
           index["weight_map"]["t" + std::to_string(i)] = std::to_string(i) + ".safetensors";
         }
         d.write(kIndex, index.dump());
       },
       kInvalid, "CHECKPOINT_INDEX", "at most 1024 files, got 1025"},
  };
  for (const std::string name : {"../shard-0.safetensors", "/etc/hostname", "a/b.safetensors", "..",
                                 ".", "", "a\\b.safetensors"}) {
    bad.push_back({"shard name '" + name + "'",
                   [name](const auto& d) {
                     Sharded sharded;
                     sharded.index["weight_map"]["lm_head.weight"] = name;
                     sharded.write(d);
                   },
                   kInvalid, "FILE_NAME", "'" + name + "' is not a plain file name"});
  }
  return bad;
}

// Shards and index that do not agree with each other or with the model.
std::vector<BadDirectory> bad_shards() {
  std::vector<BadDirectory> bad;
  const auto damaged = [&bad](const std::string& what, std::function<void(Sharded&)> damage,
                              absl::StatusCode code, const std::string& reason,
                              const std::string& said) {
    bad.push_back({what,
                   [damage](const auto& d) {
                     Sharded sharded;
                     damage(sharded);
                     sharded.write(d);
                   },
                   code, reason, said});
  };
  damaged(
      "index names a file that is not there",
      [](Sharded& s) { s.index["weight_map"]["lm_head.weight"] = "none.safetensors"; }, kNotFound,
      "FILE_NOT_FOUND", "none.safetensors");
  damaged(
      "index names the wrong shard",
      [](Sharded& s) { s.index["weight_map"]["lm_head.weight"] = "shard-2.safetensors"; }, kInvalid,
      "CHECKPOINT_INDEX", "tensor 'lm_head.weight': expected in shard-2.safetensors");
  damaged(
      "index names a tensor that is nowhere",
      [](Sharded& s) { s.index["weight_map"]["ghost"] = "shard-1.safetensors"; }, kInvalid,
      "CHECKPOINT_INDEX", "tensor 'ghost': expected in shard-1.safetensors, got no such tensor");
  damaged(
      "index forgets a tensor", [](Sharded& s) { s.index["weight_map"].erase("lm_head.weight"); },
      kInvalid, "CHECKPOINT_INDEX", "tensor 'lm_head.weight': not in weight_map");
  damaged(
      "a tensor stands in two shards",
      [](Sharded& s) { s.shards[2].tensors.push_back(s.shards[0].tensors[0]); }, kInvalid,
      "CHECKPOINT_DUPLICATE_TENSOR", "tensor 'model.embed_tokens.weight': already in");
  damaged(
      "a tensor of another shape in the last shard",
      [](Sharded& s) { s.shards[2].tensors.back().shape.back() = 17; }, kInvalid,
      "CHECKPOINT_SHAPE", "shard-2.safetensors: tensor 'model.vision.eoi': expected [1, 1, 16]");
  damaged(
      "a tensor of integers", [](Sharded& s) { s.shards[1].tensors[0].dtype = "I16"; }, kInvalid,
      "CHECKPOINT_DTYPE", "shard-1.safetensors: tensor '");
  damaged(
      "an extra tensor in a shard and the index",
      [](Sharded& s) {
        s.shards[1].tensors.push_back({"extra", "F32", {1}});
        s.index["weight_map"]["extra"] = "shard-1.safetensors";
      },
      kInvalid, "CHECKPOINT_EXTRA_TENSOR", "shard-1.safetensors: tensor 'extra'");
  return bad;
}

TEST(Checkpoint, every_bad_directory_is_refused_with_its_reason) {
  std::vector<BadDirectory> cases = bad_files();
  for (auto* more : {bad_indexes, bad_shards}) {
    for (BadDirectory& bad : more()) cases.push_back(std::move(bad));
  }
  EXPECT_GE(cases.size(), 30u);
  for (const BadDirectory& bad : cases) {
    SCOPED_TRACE(bad.what);
    const TemporaryDirectory directory;
    bad.make(directory);
    const absl::Status status = check_directory(directory);
    EXPECT_EQ(described(status), described(bad.code, bad.reason));
    EXPECT_THAT(status.message(), HasSubstr(bad.said));
  }
}

TEST(Checkpoint, a_link_that_stays_inside_the_directory_is_followed) {
  const TemporaryDirectory directory;
  directory.write("weights", safetensors_file(tensors_of(tiny_config())));
  link(directory, "weights", kFile);
  EXPECT_TRUE(check_directory(directory).ok()) << check_directory(directory);
}

}  // namespace
}  // namespace cogserve
