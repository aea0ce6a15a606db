#include "server/serial_executor.hpp"

#include <utility>

namespace cogserve {

void SerialTask::wake() {
  if (wakes_.fetch_add(1, std::memory_order_acq_rel) == 0) executor_->post(shared_from_this());
}

void SerialTask::run() {
  const int seen = wakes_.load(std::memory_order_acquire);
  step();
  // Woken meanwhile: to the back of the queue, so that one busy task does not keep a thread.
  if (wakes_.fetch_sub(seen, std::memory_order_acq_rel) != seen) {
    executor_->post(shared_from_this());
  }
}

SerialExecutor::SerialExecutor(int threads) {
  for (int i = 0; i < threads; ++i) threads_.emplace_back([this] { work(); });
}

SerialExecutor::~SerialExecutor() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void SerialExecutor::post(std::shared_ptr<SerialTask> task) {
  {
    const std::lock_guard lock(mutex_);
    queue_.push_back(std::move(task));
  }
  wake_.notify_one();
}

void SerialExecutor::work() {
  std::unique_lock lock(mutex_);
  while (true) {
    wake_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
    if (queue_.empty()) return;
    const std::shared_ptr<SerialTask> task = std::move(queue_.front());
    queue_.pop_front();
    lock.unlock();
    task->run();
    lock.lock();
  }
}

}  // namespace cogserve
