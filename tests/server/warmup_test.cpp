#include "server/warmup.hpp"

#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "engine/base/error.hpp"

namespace cogserve {
namespace {

// Keeps what is submitted until it is told to end it.
class PatientEngine final : public Engine {
 public:
  explicit PatientEngine(std::vector<int> decode_batches) {
    info_.model.vision = {.patch = 2, .image_size = 8};
    info_.max_model_len = 100;
    info_.block_size = 10;
    info_.num_blocks = 10;
    info_.decode_batches = std::move(decode_batches);
  }

  // What waits beyond so many requests is refused.
  void set_room(size_t requests) { room_ = requests; }
  void set_max_model_len(int tokens) { info_.max_model_len = tokens; }

  absl::StatusOr<std::shared_ptr<TokenStream>> submit(Request request) override {
    if (request.text_ids.size() + 1 + request.max_tokens > size_t(info_.max_model_len)) {
      return invalid_argument("CONTEXT_LENGTH", "max_tokens", "too long");
    }
    if (open_.size() >= room_) {
      return make_error(absl::StatusCode::kResourceExhausted, "QUEUE_FULL", "", "full");
    }
    pictures_ += !request.pixels.empty();
    open_.push_back(std::make_shared<TokenStream>(64));
    return open_.back();
  }
  absl::Status check_room(uint64_t /*caller*/, size_t /*bytes*/) const override {
    return absl::OkStatus();
  }
  const EngineInfo& info() const override { return info_; }
  EngineStats stats() const override { return {}; }
  Clock::duration silence() const override { return Clock::duration(0); }
  bool healthy() const override { return true; }

  // Ends all that is open; how many there were.
  int end_all(const absl::Status& status = absl::OkStatus()) {
    for (const auto& stream : open_) stream->finish({.status = status});
    const auto count = static_cast<int>(open_.size());
    open_.clear();
    return count;
  }
  int pictures() const { return pictures_; }

 private:
  EngineInfo info_;
  std::vector<std::shared_ptr<TokenStream>> open_;
  size_t room_ = 1000;
  int pictures_ = 0;
};

// How many requests ran together, one group after the other.
std::vector<int> groups_of_warm_up(PatientEngine& engine) {
  std::vector<int> groups;
  const absl::Status status = warm_up(engine, [&] { groups.push_back(engine.end_all()); });
  EXPECT_TRUE(status.ok()) << status;
  return groups;
}

TEST(Warmup, is_a_text_and_a_picture_where_batches_need_no_preparation) {
  PatientEngine engine({});
  EXPECT_EQ(groups_of_warm_up(engine), (std::vector<int>{1, 1}));
  EXPECT_EQ(engine.pictures(), 1);
}

TEST(Warmup, runs_every_batch_that_a_device_prepares_for) {
  PatientEngine engine({1, 2, 4, 8, 10});
  EXPECT_EQ(groups_of_warm_up(engine), (std::vector<int>{1, 1, 10, 8, 4, 2, 1}));
  EXPECT_EQ(engine.pictures(), 1);
}

TEST(Warmup, makes_do_with_a_short_queue_and_a_short_context) {
  PatientEngine engine({1, 2, 4, 8});
  engine.set_room(3);
  EXPECT_EQ(groups_of_warm_up(engine), (std::vector<int>{1, 1, 3, 3, 2, 1}));
  engine.set_max_model_len(4);  // no picture fits
  EXPECT_EQ(groups_of_warm_up(engine), (std::vector<int>{1, 3, 3, 2, 1}));
  EXPECT_EQ(engine.pictures(), 1);
}

TEST(Warmup, ends_with_what_the_engine_says) {
  PatientEngine engine({1, 2, 4});
  int waits = 0;
  const absl::Status lost = make_error(absl::StatusCode::kUnavailable, "ENGINE_RESTARTING", "", "");
  const absl::Status status =
      warm_up(engine, [&] { engine.end_all(++waits == 4 ? lost : absl::OkStatus()); });
  EXPECT_EQ(error_reason(status), "ENGINE_RESTARTING");
  EXPECT_EQ(waits, 4);
}

}  // namespace
}  // namespace cogserve
