// Where the next host array goes in a ring of memory that a device reads later. Plain arithmetic:
// no CUDA here.
//
// The ring is cut into equal segments. One that is left gets a mark (an event) and is entered again
// only after its mark has passed, so that nothing is overwritten before the work that reads it is
// done. With enough segments that wait is over before it begins.
#pragma once

#include <cstddef>

namespace cogserve::cuda {

class Ring {
 public:
  struct Place {
    size_t offset = 0;  // in bytes, a multiple of kAlignment
    int segment = 0;
    int left = -1;           // the segment to mark, -1 if this one was not entered just now
    bool must_wait = false;  // for the mark of `segment`, before writing
  };

  static constexpr size_t kAlignment = 256;

  Ring(size_t segment_bytes, int segments);

  // `bytes` at most segment_bytes() (else InvariantError).
  Place take(size_t bytes);

  size_t segment_bytes() const { return segment_bytes_; }
  size_t bytes() const { return segment_bytes_ * static_cast<size_t>(segments_); }
  int segments() const { return segments_; }
  int segment() const { return segment_; }

 private:
  size_t segment_bytes_;
  int segments_;
  int segment_ = 0;
  size_t used_ = 0;      // of the current segment
  bool lapped_ = false;  // true once every segment has been in use
};

}  // namespace cogserve::cuda
