// How many layers of the vision tower go into a step, so that running streams wait no longer for
// their next token than a target. Learns what a layer takes from the steps it has seen; time is
// passed in. Owned by Scheduler.
#pragma once

#include <chrono>

namespace cogserve {

class VisionPacer {
 public:
  // Without a target (0), and until a layer has been seen, it is `otherwise` layers.
  VisionPacer(std::chrono::nanoseconds target, int otherwise)
      : target_(target), otherwise_(otherwise) {}

  // A step with so many of the tower's layers, and with or without rows of the decoder.
  void observe(int layers, bool decodes, std::chrono::nanoseconds took);

  // At least 1.
  int layers() const;

 private:
  std::chrono::nanoseconds target_;
  int otherwise_;
  // Moving averages; negative until there is one.
  std::chrono::nanoseconds decoding_{-1};  // a step without the tower
  std::chrono::nanoseconds layer_{-1};
};

}  // namespace cogserve
