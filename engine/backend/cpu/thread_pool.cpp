#include "engine/backend/cpu/thread_pool.hpp"

#include <algorithm>

#include "hwy/cache_control.h"

namespace cogserve::cpu {
namespace {

// About 20 microseconds: longer than the gap between two operations, short against a time slice.
constexpr int kSpins = 500;

}  // namespace

ThreadPool::ThreadPool(int threads) {
  if (threads <= 0) threads = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  workers_.reserve(threads - 1);
  for (int worker = 1; worker < threads; ++worker) {
    workers_.emplace_back([this, worker] { work(worker); });
  }
}

ThreadPool::~ThreadPool() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::run(const Job& job) {
  bool somebody_sleeps;
  {
    const std::lock_guard lock(mutex_);
    job_ = job;
    open_ = true;
    next_ = 0;
    ++epoch_;
    somebody_sleeps = sleepers_ > 0;
  }
  if (somebody_sleeps) wake_.notify_all();
  run_pieces(job, 0);
  // Every piece is taken. Workers that have not joined yet are not waited for.
  {
    const std::lock_guard lock(mutex_);
    open_ = false;
  }
  for (int spin = 0; spin < kSpins && active_ > 0; ++spin) hwy::Pause();
  std::unique_lock lock(mutex_);
  done_.wait(lock, [this] { return active_ == 0; });
}

void ThreadPool::run_pieces(const Job& job, int worker) {
  for (;;) {
    const size_t begin = next_.fetch_add(job.grain);
    if (begin >= job.n) return;
    job.call(job.context, begin, std::min(begin + job.grain, job.n), worker);
  }
}

void ThreadPool::work(int worker) {
  uint64_t seen = 0;
  while (wait_for_job(seen)) {
    Job job;
    {
      const std::lock_guard lock(mutex_);
      seen = epoch_;
      if (!open_) continue;
      job = job_;
      ++active_;
    }
    run_pieces(job, worker);
    {
      const std::lock_guard lock(mutex_);
      --active_;
      if (active_ == 0) done_.notify_one();
    }
  }
}

bool ThreadPool::wait_for_job(uint64_t seen) {
  for (int spin = 0; spin < kSpins; ++spin) {
    if (stop_) return false;
    if (epoch_ != seen) return true;
    hwy::Pause();
  }
  std::unique_lock lock(mutex_);
  ++sleepers_;
  wake_.wait(lock, [&] { return stop_ || epoch_ != seen; });
  --sleepers_;
  return !stop_;
}

}  // namespace cogserve::cpu
