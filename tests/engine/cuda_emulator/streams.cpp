#include "tests/engine/cuda_emulator/streams.hpp"

#include <algorithm>
#include <utility>

#include "tests/engine/cuda_emulator/emulator.hpp"
#include "tests/engine/cuda_emulator/memory.hpp"

namespace cogserve::emulator {
namespace {

std::vector<Stream*> all_streams;
bool next_capture_breaks = false;
bool next_upload_fails = false;

// True if there is no capture to break.
bool break_captures() {
  bool none = true;
  for (Stream* stream : all_streams) {
    if (!stream->capturing()) continue;
    stream->break_capture();
    none = false;
  }
  return none;
}

}  // namespace

Stream::Stream() { all_streams.push_back(this); }

Stream::~Stream() { std::erase(all_streams, this); }

void Stream::give(Work work) {
  if (capturing_) {
    captured_.push_back(std::move(work));
  } else {
    queue_.push_back(std::move(work));
  }
}

void Stream::run_until(uint64_t mark) {
  if (done_ >= mark) return settle_all_blocks();
  const DeviceWork scope;
  while (done_ < mark && !queue_.empty()) {
    const Work work = std::move(queue_.front());
    queue_.pop_front();
    ++done_;
    try {
      work();
    } catch (...) {  // what comes after a fault is not done
      done_ += queue_.size();
      queue_.clear();
      throw;
    }
  }
  settle_all_blocks();
}

void Stream::begin_capture() {
  capturing_ = true;
  broken_ = std::exchange(next_capture_breaks, false);
  captured_.clear();
}

bool Stream::end_capture(std::vector<Work>* graph) {
  capturing_ = false;
  *graph = std::exchange(captured_, {});
  return !broken_;
}

bool may_allocate() {
  ++counts().allocations;
  return break_captures();
}

bool wait_for_all_streams() {
  ++counts().waits;
  if (!break_captures()) return false;
  for (Stream* stream : all_streams) stream->run_until(stream->mark());
  return true;
}

bool is_capturing() {
  return std::any_of(all_streams.begin(), all_streams.end(),
                     [](const Stream* stream) { return stream->capturing(); });
}

bool may_upload() { return !std::exchange(next_upload_fails, false); }

void break_next_capture() { next_capture_breaks = true; }

void refuse_next_upload() { next_upload_fails = true; }

bool& has_code() {
  static bool has_code = true;
  return has_code;
}

Counts& counts() {
  static Counts counts;
  return counts;
}

}  // namespace cogserve::emulator
