// The calls that are running: counted for draining, visited to end those that stall or must go.
//
// One for a server. A call registers itself when it is accepted and leaves when gRPC is done with
// it, so whatever is listed here may be touched.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <functional>
#include <mutex>
#include <unordered_set>

namespace cogserve {

class CallTransport;

class ActiveCalls {
 public:
  void add(CallTransport* call);
  void remove(CallTransport* call);
  size_t size() const;

  // True as soon as none is left; false after `timeout`.
  bool wait_until_empty(std::chrono::milliseconds timeout);

  // None leaves while it is visited. `visit` must not block.
  void for_each(const std::function<void(CallTransport&)>& visit);

 private:
  mutable std::mutex mutex_;
  std::condition_variable emptied_;
  std::unordered_set<CallTransport*> calls_;
};

}  // namespace cogserve
