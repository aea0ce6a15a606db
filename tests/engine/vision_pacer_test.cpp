#include "engine/schedule/vision_pacer.hpp"

#include <gtest/gtest.h>

namespace cogserve {
namespace {

using std::chrono::milliseconds;

TEST(VisionPacer, without_a_target_the_slice_is_the_given_one_whatever_it_takes) {
  VisionPacer pacer(milliseconds(0), 5);
  pacer.observe(5, true, milliseconds(900));
  EXPECT_EQ(pacer.layers(), 5);
}

TEST(VisionPacer, a_target_means_nothing_until_a_layer_has_been_seen) {
  VisionPacer pacer(milliseconds(50), 5);
  pacer.observe(0, true, milliseconds(10));
  EXPECT_EQ(pacer.layers(), 5);
}

TEST(VisionPacer, what_decoding_leaves_of_the_target_is_filled_with_layers) {
  VisionPacer pacer(milliseconds(50), 1);
  pacer.observe(4, false, milliseconds(40));  // an idle engine: 10 ms a layer
  EXPECT_EQ(pacer.layers(), 5);
  pacer.observe(0, true, milliseconds(20));
  EXPECT_EQ(pacer.layers(), 3);
  pacer.observe(3, true, milliseconds(50));  // as expected: nothing changes
  EXPECT_EQ(pacer.layers(), 3);
}

TEST(VisionPacer, slices_follow_a_machine_that_slows_down) {
  VisionPacer pacer(milliseconds(60), 1);
  pacer.observe(6, false, milliseconds(60));
  EXPECT_EQ(pacer.layers(), 6);
  for (int i = 0; i < 100; ++i) pacer.observe(1, false, milliseconds(30));
  EXPECT_EQ(pacer.layers(), 2);
}

TEST(VisionPacer, a_picture_goes_on_by_a_layer_a_step_when_the_target_cannot_be_met) {
  VisionPacer pacer(milliseconds(5), 3);
  pacer.observe(1, false, milliseconds(40));
  pacer.observe(0, true, milliseconds(20));
  EXPECT_EQ(pacer.layers(), 1);
}

TEST(VisionPacer, a_layer_that_takes_no_time_is_no_fault) {
  VisionPacer pacer(milliseconds(5), 3);
  pacer.observe(2, true, milliseconds(0));
  EXPECT_GE(pacer.layers(), 1);
}

}  // namespace
}  // namespace cogserve
