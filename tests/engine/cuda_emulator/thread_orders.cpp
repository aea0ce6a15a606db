// Takes the threads of a block in descending order, and in shuffled and ascending order where the
// tests are run again (--gtest_repeat=3): what depends on the order is a race.
#include <gtest/gtest.h>

#include "tests/engine/cuda_emulator/emulator.hpp"

namespace cogserve::emulator {
namespace {

constexpr Order kOrders[] = {Order::kDescending, Order::kShuffled, Order::kAscending};

class ThreadOrders : public ::testing::EmptyTestEventListener {
  void OnTestIterationStart(const ::testing::UnitTest&, int iteration) override {
    set_order(kOrders[iteration % 3]);
  }
};

}  // namespace
}  // namespace cogserve::emulator

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  ::testing::UnitTest::GetInstance()->listeners().Append(new cogserve::emulator::ThreadOrders);
  return RUN_ALL_TESTS();
}
