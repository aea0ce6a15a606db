#include "engine/schedule/vision_pacer.hpp"

#include <algorithm>
#include <limits>

namespace cogserve {
namespace {

using std::chrono::nanoseconds;

void average(nanoseconds seen, nanoseconds* mean) {
  *mean = *mean < nanoseconds(0) ? seen : *mean + (seen - *mean) / 8;
}

}  // namespace

void VisionPacer::observe(int layers, bool decodes, nanoseconds took) {
  if (layers == 0) {
    average(took, &decoding_);
    return;
  }
  const nanoseconds rest = decodes ? std::max(decoding_, nanoseconds(0)) : nanoseconds(0);
  average(std::max(took - rest, nanoseconds(0)) / layers, &layer_);
}

int VisionPacer::layers() const {
  if (target_ <= nanoseconds(0) || layer_ < nanoseconds(0)) return otherwise_;
  const nanoseconds left = target_ - std::max(decoding_, nanoseconds(0));
  const int64_t layers = left / std::max(layer_, nanoseconds(1));
  return static_cast<int>(std::clamp<int64_t>(layers, 1, std::numeric_limits<int>::max()));
}

}  // namespace cogserve
