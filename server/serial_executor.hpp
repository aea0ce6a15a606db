// A few threads that run the steps of many tasks, each task's steps one at a time.
//
// It stands between the engine thread (and the pools) and gRPC: a token that arrives wakes a task
// with a counter and a queue entry; detokenizing, serialising and writing happen here.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace cogserve {

class SerialExecutor;

// Something that has to look at its inputs again whenever one of them has changed.
class SerialTask : public std::enable_shared_from_this<SerialTask> {
 public:
  explicit SerialTask(SerialExecutor* executor) : executor_(executor) {}
  virtual ~SerialTask() = default;

  // From any thread; does not block. `step` runs after this, once for any number of wake-ups that
  // it has not seen yet.
  void wake();

 protected:
  // On an executor thread, never twice at the same time.
  virtual void step() = 0;

 private:
  friend class SerialExecutor;
  void run();

  SerialExecutor* const executor_;
  std::atomic<int> wakes_{0};
};

// Outlives its tasks.
class SerialExecutor {
 public:
  explicit SerialExecutor(int threads);
  // Runs what is queued, then joins.
  ~SerialExecutor();

 private:
  friend class SerialTask;
  void post(std::shared_ptr<SerialTask> task);
  void work();

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::shared_ptr<SerialTask>> queue_;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace cogserve
