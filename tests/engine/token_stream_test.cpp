#include "engine/token_stream.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "engine/base/check.hpp"

namespace cogserve {
namespace {

TokenEvent token(int32_t id) {
  TokenEvent event;
  event.token.id = id;
  return event;
}

int32_t id_of(const TokenStream::Event& event) { return std::get<TokenEvent>(event).token.id; }

bool is_end(const TokenStream::Event& event) { return std::holds_alternative<EndEvent>(event); }

// What a reader with a callback does: something that can be woken and waited for.
class Bell {
 public:
  void ring() {
    const std::lock_guard lock(mutex_);
    ++rings_;
    rung_.notify_all();
  }
  // Blocks until rung since the last call.
  void await() {
    std::unique_lock lock(mutex_);
    rung_.wait(lock, [this] { return rings_ > heard_; });
    heard_ = rings_;
  }
  int rings() {
    const std::lock_guard lock(mutex_);
    return rings_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable rung_;
  int rings_ = 0;
  int heard_ = 0;
};

TEST(TokenStream, hands_over_tokens_in_order_and_then_one_end) {
  TokenStream stream(8);
  stream.push(token(1));
  stream.push(token(2));
  EndEvent end;
  end.completion_tokens = 2;
  stream.finish(end);
  EXPECT_EQ(id_of(*stream.pop()), 1);
  EXPECT_EQ(id_of(*stream.pop()), 2);
  EXPECT_EQ(std::get<EndEvent>(*stream.pop()).completion_tokens, 2);
  EXPECT_FALSE(stream.pop().has_value());
}

TEST(TokenStream, nothing_may_follow_the_end) {
  TokenStream stream(8);
  stream.finish(EndEvent{});
  EXPECT_THROW(stream.push(token(1)), InvariantError);
  EXPECT_THROW(stream.finish(EndEvent{}), InvariantError);
  EXPECT_TRUE(is_end(*stream.pop()));
  EXPECT_FALSE(stream.pop().has_value());
  EXPECT_THROW(stream.wait(), InvariantError);
}

TEST(TokenStream, is_full_at_its_capacity_of_undelivered_tokens) {
  TokenStream stream(2);
  EXPECT_FALSE(stream.full());
  stream.push(token(1));
  EXPECT_FALSE(stream.full());
  stream.push(token(2));
  EXPECT_TRUE(stream.full());
  stream.pop();
  EXPECT_FALSE(stream.full());
}

TEST(TokenStream, the_end_takes_no_room) {
  TokenStream stream(1);
  stream.finish(EndEvent{});
  EXPECT_FALSE(stream.full());
}

TEST(TokenStream, the_callback_comes_once_each_time_the_reader_saw_the_box_empty) {
  TokenStream stream(8);
  int calls = 0;
  stream.set_ready_callback([&] { ++calls; });
  EXPECT_EQ(calls, 0);
  stream.push(token(1));
  EXPECT_EQ(calls, 1);
  stream.push(token(2));
  EXPECT_EQ(calls, 1) << "the reader was told already";
  stream.pop();
  stream.pop();
  stream.push(token(3));
  EXPECT_EQ(calls, 1) << "the reader has not looked into the empty box yet, and will";
  stream.pop();
  EXPECT_FALSE(stream.pop().has_value());
  stream.finish(EndEvent{});
  EXPECT_EQ(calls, 2);
}

TEST(TokenStream, the_callback_comes_at_once_when_an_event_waits_already) {
  TokenStream stream(8);
  stream.push(token(1));
  int calls = 0;
  stream.set_ready_callback([&] { ++calls; });
  EXPECT_EQ(calls, 1);

  TokenStream ended(8);
  ended.finish(EndEvent{});
  ended.set_ready_callback([&] { ++calls; });
  EXPECT_EQ(calls, 2);
}

TEST(TokenStream, the_callback_may_use_the_stream) {
  TokenStream stream(8);
  std::vector<int32_t> got;
  stream.set_ready_callback([&] {
    while (const auto event = stream.pop()) {
      if (!is_end(*event)) got.push_back(id_of(*event));
    }
  });
  for (int i = 0; i < 5; ++i) stream.push(token(i));
  stream.finish(EndEvent{});
  EXPECT_EQ(got, (std::vector<int32_t>{0, 1, 2, 3, 4}));
}

TEST(TokenStream, what_the_callback_captured_is_dropped_with_the_end) {
  const auto stream = std::make_shared<TokenStream>(8);
  const auto captured = std::make_shared<int>(0);
  stream->set_ready_callback([stream, captured] { ++*captured; });
  EXPECT_GT(captured.use_count(), 1);
  stream->push(token(1));
  stream->finish(EndEvent{});
  EXPECT_EQ(captured.use_count(), 1);
  EXPECT_EQ(stream.use_count(), 1) << "a reader in its own callback is no leak";
}

TEST(TokenStream, cancel_is_idempotent_and_wakes_the_engine_once) {
  int wakes = 0;
  TokenStream stream(8, [&] { ++wakes; });
  EXPECT_FALSE(stream.cancelled());
  stream.cancel();
  stream.cancel();
  EXPECT_TRUE(stream.cancelled());
  EXPECT_EQ(wakes, 1);
}

TEST(TokenStream, the_engine_is_woken_by_the_token_whose_taking_makes_room) {
  int wakes = 0;
  TokenStream stream(2, [&] { ++wakes; });
  for (int i = 0; i < 3; ++i) stream.push(token(i));
  stream.pop();
  EXPECT_EQ(wakes, 0) << "still full";
  stream.pop();
  EXPECT_EQ(wakes, 1);
  stream.pop();
  EXPECT_EQ(wakes, 1);
  stream.push(token(3));
  stream.push(token(4));
  stream.wait();
  EXPECT_EQ(wakes, 2);
}

TEST(TokenStream, a_waiting_thread_gets_every_token) {
  constexpr int kTokens = 20000;
  TokenStream stream(kTokens);
  std::thread engine([&] {
    for (int i = 0; i < kTokens; ++i) stream.push(token(i));
    stream.finish(EndEvent{});
  });
  for (int i = 0; i < kTokens; ++i) EXPECT_EQ(id_of(stream.wait()), i);
  EXPECT_TRUE(is_end(stream.wait()));
  engine.join();
}

// The reader sleeps unless the bell rings: one lost call and this test never ends.
TEST(TokenStream, no_wake_up_is_lost_between_two_threads) {
  constexpr int kTokens = 20000;
  TokenStream stream(kTokens);
  const auto bell = std::make_shared<Bell>();
  std::thread engine([&] {
    for (int i = 0; i < kTokens; ++i) stream.push(token(i));
    stream.finish(EndEvent{});
  });
  stream.set_ready_callback([bell] { bell->ring(); });
  int next = 0;
  bool ended = false;
  while (!ended) {
    bell->await();
    while (const auto event = stream.pop()) {
      EXPECT_FALSE(ended);
      ended = is_end(*event);
      if (!ended) {
        EXPECT_EQ(id_of(*event), next++);
      }
    }
  }
  engine.join();
  EXPECT_EQ(next, kTokens);
}

// The engine side stops while full and sleeps until woken: flow control loses nothing either.
TEST(TokenStream, a_full_box_and_a_sleeping_engine_always_go_on) {
  constexpr int kTokens = 20000;
  Bell room;
  TokenStream stream(3, [&] { room.ring(); });
  std::thread engine([&] {
    for (int i = 0; i < kTokens; ++i) {
      while (stream.full()) room.await();
      stream.push(token(i));
    }
    stream.finish(EndEvent{});
  });
  for (int i = 0; i < kTokens; ++i) EXPECT_EQ(id_of(stream.wait()), i);
  EXPECT_TRUE(is_end(stream.wait()));
  engine.join();
}

TEST(TokenStream, any_thread_may_cancel_and_there_is_still_exactly_one_end) {
  for (int round = 0; round < 200; ++round) {
    TokenStream stream(1 << 20);
    std::thread engine([&] {
      int32_t next = 0;
      while (!stream.cancelled()) stream.push(token(next++));
      EndEvent end;
      end.status = absl::CancelledError();
      end.completion_tokens = next;
      stream.finish(end);
    });
    std::thread canceller([&] { stream.cancel(); });
    std::thread other([&] { stream.cancel(); });
    int got = 0;
    for (;;) {
      const TokenStream::Event event = stream.wait();
      if (is_end(event)) {
        EXPECT_EQ(std::get<EndEvent>(event).completion_tokens, got);
        break;
      }
      EXPECT_EQ(id_of(event), got++);
    }
    EXPECT_FALSE(stream.pop().has_value());
    engine.join();
    canceller.join();
    other.join();
  }
}

}  // namespace
}  // namespace cogserve
