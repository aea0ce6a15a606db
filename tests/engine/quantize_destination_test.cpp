// What `quantize_checkpoint` finds in its destination, and what it makes of that.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <span>
#include <string>

#include "engine/base/error.hpp"
#include "engine/quantize_checkpoint.hpp"
#include "tests/engine/quantize_checkpoint_tools.hpp"
#include "tests/temporary_directory.hpp"

namespace cogserve {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using ::testing::HasSubstr;

std::string shard_name(int number, int count) {
  char name[64];
  std::snprintf(name, sizeof name, "model-%05d-of-%05d.safetensors", number, count);
  return name;
}

// The exit code of a process that runs `body`, which may give up rights that are not got back.
int in_child(const std::function<int()>& body) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(body());
  int status = 0;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

// Covers `directory`, for this process alone, with an empty file system of so many bytes.
bool mount_small(const std::string& directory, size_t bytes) {
  const std::string user = "0 " + std::to_string(::getuid()) + " 1";
  const std::string group = "0 " + std::to_string(::getgid()) + " 1";
  if (::unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) return false;
  std::ofstream("/proc/self/setgroups") << "deny";
  std::ofstream("/proc/self/uid_map") << user;
  std::ofstream("/proc/self/gid_map") << group;
  const std::string options = "size=" + std::to_string(bytes);
  return ::mount("none", directory.c_str(), "tmpfs", 0, options.c_str()) == 0;
}

void flip_lowest_bit(const std::string& path, size_t offset) {
  std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
  file.seekg(static_cast<std::streamoff>(offset));
  const auto byte = static_cast<char>(file.get() ^ 1);
  file.seekp(static_cast<std::streamoff>(offset));
  file.put(byte);
}

// A source, and a directory for what is made of it.
class QuantizeDestination : public ::testing::Test {
 protected:
  void SetUp() override { write_source(source); }

  // A whole run, which `whole` and `expected` are of.
  void finish() {
    const auto report = quantize_checkpoint(options, nullptr);
    ASSERT_TRUE(report.ok()) << report.status();
    whole = *report;
    expected = contents(destination.path());
  }

  const TemporaryDirectory source;
  const TemporaryDirectory destination;
  QuantizeOptions options = options_for(source, destination.path());
  QuantizeReport whole;
  std::map<std::string, std::string> expected;
};

TEST_F(QuantizeDestination, a_run_that_was_killed_is_completed_to_the_same_bytes) {
  ASSERT_NO_FATAL_FAILURE(finish());

  // Killed in the second shard: no later files, a piece of that one.
  const std::string second = shard_name(2, whole.shards);
  for (const auto& [name, content] : expected) {
    if (name == "cogserve_quantize.json" || name == shard_name(1, whole.shards)) {
      continue;
    }
    fs::remove(destination.path() + "/" + name);
  }
  destination.write(second + ".partial", expected.at(second).substr(0, 500));
  const auto rest = quantize_checkpoint(options, nullptr);
  ASSERT_TRUE(rest.ok()) << rest.status();
  EXPECT_EQ(rest->shards_kept, 1);
  EXPECT_EQ(contents(destination.path()), expected);

  const auto again = quantize_checkpoint(options, nullptr);
  EXPECT_EQ(again->shards_kept, whole.shards);
  EXPECT_EQ(contents(destination.path()), expected);
}

TEST_F(QuantizeDestination, what_is_there_and_cannot_be_read_is_an_error_and_stays) {
  const TemporaryDirectory elsewhere;
  ASSERT_NO_FATAL_FAILURE(finish());
  // A link that leads out of the directory is followed by no reader.
  for (const std::string& name :
       {shard_name(1, whole.shards), std::string("cogserve_quantize.json")}) {
    const std::string path = destination.path() + "/" + name;
    fs::rename(path, elsewhere.path() + "/" + name);
    fs::create_symlink(elsewhere.path() + "/" + name, path);
    const auto refused = quantize_checkpoint(options, nullptr);
    EXPECT_EQ(error_reason(refused.status()), "FILE_OUTSIDE") << refused.status();
    EXPECT_TRUE(fs::is_symlink(path));
    EXPECT_TRUE(fs::exists(destination.path() + "/config.json"));
    fs::remove(path);
    fs::rename(elsewhere.path() + "/" + name, path);
  }
  EXPECT_EQ(quantize_checkpoint(options, nullptr)->shards_kept, whole.shards);
}

TEST_F(QuantizeDestination, a_damaged_shard_is_written_anew) {
  ASSERT_NO_FATAL_FAILURE(finish());
  for (const auto& [name, content] : expected) {
    if (!name.ends_with(".safetensors")) continue;
    std::string damaged = content;
    uint64_t length;
    std::memcpy(&length, content.data(), 8);
    for (size_t i = 8 + length; i < damaged.size(); ++i)
      damaged[i] = static_cast<char>(~damaged[i]);
    for (const std::string& bad :
         {damaged, content.substr(0, content.size() - 1), content + "x", std::string("x")}) {
      destination.write(name, bad);
      const auto repaired = quantize_checkpoint(options, nullptr);
      ASSERT_TRUE(repaired.ok()) << repaired.status();
      EXPECT_EQ(repaired->shards_kept, whole.shards - 1) << name;
      EXPECT_EQ(read(destination.path() + "/" + name), content) << name;
    }
  }
}

TEST_F(QuantizeDestination, a_directory_that_is_not_its_own_is_refused) {
  destination.write("notes.txt", "mine");
  const absl::Status foreign = quantize_checkpoint(options, nullptr).status();
  EXPECT_EQ(error_reason(foreign), "DESTINATION");
  EXPECT_THAT(std::string(foreign.message()), HasSubstr("notes.txt"));
  EXPECT_EQ(contents(destination.path()).size(), 1u) << "nothing was written";

  options.destination = source.path();
  EXPECT_EQ(error_reason(quantize_checkpoint(options, nullptr).status()), "DESTINATION");

  const TemporaryDirectory begun;
  options.destination = begun.path();
  ASSERT_TRUE(quantize_checkpoint(options, nullptr).ok());
  options.formats.head = WeightFormat::kDense;
  EXPECT_EQ(error_reason(quantize_checkpoint(options, nullptr).status()), "DESTINATION");
}

TEST_F(QuantizeDestination, another_model_of_the_same_shapes_does_not_complete_it) {
  ASSERT_TRUE(quantize_checkpoint(options, nullptr).ok());
  const fs::path weights = source.path() + "/model.safetensors";
  fs::last_write_time(weights, fs::last_write_time(weights) + std::chrono::seconds(1));
  const absl::Status other = quantize_checkpoint(options, nullptr).status();
  EXPECT_EQ(error_reason(other), "DESTINATION");
  EXPECT_THAT(std::string(other.message()), HasSubstr("another checkpoint"));
}

TEST_F(QuantizeDestination, a_full_disk_is_said) {
  if (!fs::exists("/dev/full")) GTEST_SKIP() << "no /dev/full here";
  ASSERT_NO_FATAL_FAILURE(finish());
  const std::string name = shard_name(1, whole.shards);
  fs::remove(destination.path() + "/" + name);
  fs::create_symlink("/dev/full", destination.path() + "/" + name + ".partial");
  const absl::Status full = quantize_checkpoint(options, nullptr).status();
  EXPECT_EQ(error_reason(full), "DISK_FULL");
  EXPECT_TRUE(absl::IsResourceExhausted(full));
  EXPECT_THAT(std::string(full.message()), HasSubstr(name));
  EXPECT_FALSE(fs::exists(destination.path() + "/config.json")) << "half a checkpoint is served";
}

TEST_F(QuantizeDestination, one_bit_that_differs_is_found_in_every_kind_of_tensor) {
  ASSERT_NO_FATAL_FAILURE(finish());
  std::set<std::string> kinds;
  for (const auto& [file, content] : expected) {
    if (!file.ends_with(".safetensors")) continue;
    uint64_t length;
    std::memcpy(&length, content.data(), 8);
    const json header = json::parse(content.substr(8, length));
    for (const auto& [name, entry] : header.items()) {
      if (name == "__metadata__" || !kinds.insert(entry["dtype"]).second) continue;
      const size_t begin = entry["data_offsets"][0];
      const size_t end = entry["data_offsets"][1];
      flip_lowest_bit(destination.path() + "/" + file, 8 + length + (begin + end) / 8 * 4);
      const auto repaired = quantize_checkpoint(options, nullptr);
      ASSERT_TRUE(repaired.ok()) << repaired.status();
      EXPECT_EQ(repaired->shards_kept, whole.shards - 1) << name;
      ASSERT_EQ(repaired->shards_replaced.size(), 1u) << name;
      EXPECT_THAT(repaired->shards_replaced[0], HasSubstr(file));
      EXPECT_EQ(contents(destination.path()).at(file), content) << name;
    }
  }
  EXPECT_EQ(kinds, (std::set<std::string>{"BF16", "F16", "F32", "I8", "U8"}));
}

TEST_F(QuantizeDestination, weights_so_small_that_every_scale_is_zero_are_kept) {
  write_source(source, [](const std::string&, std::span<BFloat16> values) {
    for (BFloat16& value : values) value = to_bfloat16(to_float(value) * 1e-9f);
  });
  ASSERT_NO_FATAL_FAILURE(finish());
  const auto again = quantize_checkpoint(options, nullptr);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->shards_kept, whole.shards);
  EXPECT_TRUE(again->shards_replaced.empty());
}

TEST_F(QuantizeDestination, two_runs_at_once_are_one_too_many) {
  absl::Status second;
  const auto first = quantize_checkpoint(options, [&](int64_t done, int64_t total) {
    if (done == total) second = quantize_checkpoint(options, nullptr).status();
  });
  EXPECT_TRUE(first.ok()) << first.status();
  EXPECT_TRUE(absl::IsFailedPrecondition(second));
  EXPECT_EQ(error_reason(second), "DESTINATION_IN_USE");
  EXPECT_THAT(std::string(second.message()), HasSubstr(destination.path()));
  EXPECT_THAT(std::string(second.message()), HasSubstr("wait"));
  EXPECT_TRUE(quantize_checkpoint(options, nullptr).ok()) << "it is free again";
}

TEST_F(QuantizeDestination, what_cannot_be_kept_takes_no_room) {
  const TemporaryDirectory small;
  ASSERT_NO_FATAL_FAILURE(finish());
  const std::string shard = shard_name(2, whole.shards);
  for (const std::string& leftover : {shard + ".partial", shard}) {
    constexpr int kNoFileSystem = 77;
    QuantizeOptions rest_options = options_for(source, small.path());
    rest_options.threads = 1;  // the sanitizer of threads wants none after a fork
    const int code = in_child([&] {
      if (!mount_small(small.path(), size_t{4} << 20)) return kNoFileSystem;
      fs::copy(destination.path(), small.path());
      fs::remove(small.path() + "/" + shard);
      small.write(leftover, std::string(size_t{4} << 20, 'x'));
      const auto rest = quantize_checkpoint(rest_options, nullptr);
      if (!rest.ok()) std::fprintf(stderr, "%s\n", std::string(rest.status().message()).c_str());
      return rest.ok() && contents(small.path()) == expected ? 0 : 1;
    });
    if (code == kNoFileSystem) GTEST_SKIP() << "no file system can be mounted here";
    EXPECT_EQ(code, 0) << leftover;
  }
}

TEST_F(QuantizeDestination, a_new_file_system_is_as_good_as_empty) {
  fs::create_directory(destination.path() + "/lost+found");
  EXPECT_TRUE(quantize_checkpoint(options, nullptr).ok());

  const TemporaryDirectory other;
  other.write("lost+found", "a file");
  const absl::Status refused =
      quantize_checkpoint(options_for(source, other.path()), nullptr).status();
  EXPECT_EQ(error_reason(refused), "DESTINATION");
}

TEST_F(QuantizeDestination, a_directory_that_cannot_be_read_is_not_taken_for_empty) {
  constexpr uid_t kNobody = 65534;
  fs::permissions(source.path(), fs::perms{0755});
  destination.write("notes.txt", "mine");
  fs::permissions(destination.path(), fs::perms{0300});
  const int code = in_child([&] {
    if (::getuid() == 0 &&
        (::chown(destination.path().c_str(), kNobody, kNobody) != 0 || ::setuid(kNobody) != 0)) {
      return 2;
    }
    const absl::Status refused = quantize_checkpoint(options, nullptr).status();
    std::fprintf(stderr, "%s\n", std::string(refused.message()).c_str());
    return error_reason(refused) == "DIRECTORY_READ" ? 0 : 1;
  });
  EXPECT_EQ(code, 0);
  fs::permissions(destination.path(), fs::perms{0700});
  EXPECT_EQ(contents(destination.path()).size(), 1u) << "nothing was written";
}

TEST_F(QuantizeDestination, a_small_file_that_cannot_be_read_costs_no_work) {
  const TemporaryDirectory outside;
  fs::create_symlink(outside.write("README.md", "elsewhere"), source.path() + "/README.md");
  int64_t steps = 0;
  const absl::Status refused =
      quantize_checkpoint(options, [&](int64_t, int64_t) { ++steps; }).status();
  EXPECT_EQ(error_reason(refused), "FILE_OUTSIDE");
  EXPECT_THAT(std::string(refused.message()), HasSubstr("README.md"));
  EXPECT_EQ(steps, 0);
}

TEST_F(QuantizeDestination, report_and_marker_of_the_source_are_not_copied) {
  source.write("quantization_report.json", "stale");
  source.write("cogserve_quantize.json", "stale");
  const auto report = quantize_checkpoint(options, nullptr);
  ASSERT_TRUE(report.ok()) << report.status();
  const json written = json::parse(contents(destination.path()).at("quantization_report.json"));
  EXPECT_EQ(written["tensors"].size(), report->tensors.size());
  const auto again = quantize_checkpoint(options, nullptr);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->shards_kept, report->shards);
}

TEST_F(QuantizeDestination, a_weight_that_is_refused_is_named_with_its_file) {
  write_source(source, [](const std::string& name, std::span<BFloat16> values) {
    if (name == "lm_head.weight") values[3] = to_bfloat16(INFINITY);
  });
  const absl::Status refused = quantize_checkpoint(options, nullptr).status();
  EXPECT_EQ(error_reason(refused), "WEIGHT_NOT_FINITE");
  EXPECT_EQ(error_field(refused), "lm_head.weight");
  EXPECT_THAT(
      std::string(refused.message()),
      HasSubstr(source.path() + "/model.safetensors: tensor 'lm_head.weight': element [0, 3]"));
}

}  // namespace
}  // namespace cogserve
