// The emulator's streams, events and graphs.
//
// Work that is given to a stream runs when somebody waits for it and not before: as late as a GPU
// may run it, so that memory which the host changes too early is found. While a stream is captured,
// work is noted in a graph instead, with its arguments as they are then; a launch of the graph
// gives all of it to a stream. What would wait or allocate during a capture breaks it, as on a GPU.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <vector>

namespace cogserve::emulator {

using Work = std::function<void()>;

class Stream {
 public:
  Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  ~Stream();

  void give(Work work);
  // How much was given so far; runs all that was given before `mark`.
  uint64_t mark() const { return done_ + queue_.size(); }
  void run_until(uint64_t mark);

  bool capturing() const { return capturing_; }
  void begin_capture();
  // False: the capture was broken and there is no graph.
  bool end_capture(std::vector<Work>* graph);
  void break_capture() { broken_ = true; }

 private:
  std::deque<Work> queue_;
  uint64_t done_ = 0;
  bool capturing_ = false;
  bool broken_ = false;
  std::vector<Work> captured_;
};

// What does not belong to one stream: true if that may be done now, after all streams have run
// dry; false, and the capture is broken, while one is captured.
bool wait_for_all_streams();
// The same for what does not wait: an allocation.
bool may_allocate();

// Whether any stream is captured.
bool is_capturing();

// Whether a graph finds memory on the device.
bool may_upload();

// For tests. The next capture breaks at its end; the next graph finds no memory.
void break_next_capture();
void refuse_next_upload();
// Whether the build has code for the device: it has, unless a test says otherwise.
bool& has_code();
// What was asked for so far.
struct Counts {
  int uploads = 0;
  int launches = 0;  // of kernels, those that were captured too
  int graphs = 0;    // launches of graphs
  int allocations = 0;
  int waits = 0;
};
Counts& counts();

}  // namespace cogserve::emulator
