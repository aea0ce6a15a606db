// The worker threads of the CPU backend.
//
// Owned by CpuBackend; used by one calling thread (the engine's), which takes part in the work.
// Between jobs a worker spins for some microseconds, because the next operation of a forward pass
// is usually that close, and then sleeps.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace cogserve::cpu {

class ThreadPool {
 public:
  // `threads` counts the caller; 0 = one for each core.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int size() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls `body(begin, end, worker)` on pieces of at most `grain` indices that cover [0, n), and
  // returns when all are done. `worker` is in [0, size()); no two calls with one worker overlap.
  // `body` must not throw and must not call parallel_for.
  template <typename Body>
  void parallel_for(size_t n, size_t grain, const Body& body) {
    if (n == 0) return;
    if (n <= grain || workers_.empty()) {
      body(size_t{0}, n, 0);
      return;
    }
    run({[](const void* context, size_t begin, size_t end, int worker) {
           (*static_cast<const Body*>(context))(begin, end, worker);
         },
         &body, n, grain});
  }

 private:
  struct Job {
    void (*call)(const void* context, size_t begin, size_t end, int worker) = nullptr;
    const void* context = nullptr;
    size_t n = 0;
    size_t grain = 1;
  };

  void run(const Job& job);
  void work(int worker);
  void run_pieces(const Job& job, int worker);
  // False when the pool is being destroyed.
  bool wait_for_job(uint64_t seen);

  std::vector<std::thread> workers_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable done_;
  Job job_;                         // guarded by mutex_
  bool open_ = false;               // guarded by mutex_: a worker may still join the job
  int sleepers_ = 0;                // guarded by mutex_
  std::atomic<bool> stop_{false};   // written under mutex_
  std::atomic<uint64_t> epoch_{0};  // number of jobs so far; written under mutex_
  std::atomic<int> active_{0};      // workers inside the job; written under mutex_
  std::atomic<size_t> next_{0};     // first index not yet taken
};

}  // namespace cogserve::cpu
