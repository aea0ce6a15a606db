#include "engine/backend/cuda/ring.hpp"

#include "engine/base/check.hpp"

namespace cogserve::cuda {

Ring::Ring(size_t segment_bytes, int segments)
    : segment_bytes_(segment_bytes), segments_(segments) {
  check(segment_bytes % kAlignment == 0 && segments >= 2,
        "a ring has two or more aligned segments");
}

Ring::Place Ring::take(size_t bytes) {
  check(bytes <= segment_bytes_, "the arrays of one operation fit into a segment of the ring");
  Place place;
  if (used_ + bytes > segment_bytes_) {
    place.left = segment_;
    segment_ = (segment_ + 1) % segments_;
    lapped_ = lapped_ || segment_ == 0;
    place.must_wait = lapped_;
    used_ = 0;
  }
  place.segment = segment_;
  place.offset = static_cast<size_t>(segment_) * segment_bytes_ + used_;
  used_ += (bytes + kAlignment - 1) / kAlignment * kAlignment;
  return place;
}

}  // namespace cogserve::cuda
