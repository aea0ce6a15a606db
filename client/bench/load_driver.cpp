#include "client/bench/load_driver.hpp"

#include <algorithm>
#include <utility>

namespace cogserve::client {
namespace {

constexpr std::chrono::milliseconds kReportInterval{200};

// Later than this is never; beyond some centuries the clock's counter would overflow.
constexpr double kNever = 3e9;

std::chrono::steady_clock::duration seconds(double count) {
  return std::chrono::duration_cast<std::chrono::steady_clock::duration>(
      std::chrono::duration<double>(std::min(count, kNever)));
}

double milliseconds_between(std::chrono::steady_clock::time_point from,
                            std::chrono::steady_clock::time_point to) {
  return std::chrono::duration<double, std::milli>(to - from).count();
}

}  // namespace

struct LoadDriver::ActiveSession {
  Session session;
  size_t turn = 0;
  Conversation conversation;
};

// One request under way. Its callbacks do not overlap; the driver reads the record after the last.
struct LoadDriver::Exchange {
  std::shared_ptr<ActiveSession> session;
  std::shared_ptr<Cancellation> cancellation = std::make_shared<Cancellation>();
  Client* client = nullptr;
  Record record;
  Clock::time_point sent;
  Clock::time_point last_piece;
  // Pieces after which the request is cancelled; 0: never.
  int cancel_after = 0;
  int pieces = 0;

  void on_delta(const Delta& delta) {
    const Clock::time_point now = Clock::now();
    if (record.ttft_ms) {
      record.itl_ms.push_back(milliseconds_between(last_piece, now));
      last_piece = now;
    } else if (!delta.text.empty()) {
      record.ttft_ms = milliseconds_between(sent, now);
      last_piece = now;
    }
    if (++pieces == cancel_after) cancellation->cancel();
  }

  bool cancelled_as_planned() const { return cancel_after > 0 && pieces >= cancel_after; }
};

LoadDriver::LoadDriver(ConnectionPool* pool, Workload* workload, LoadOptions options,
                       std::function<void(const LoadProgress&)> on_progress)
    : pool_(pool),
      workload_(workload),
      options_(std::move(options)),
      on_progress_(std::move(on_progress)),
      arrivals_(options_.request_rate, options_.burstiness, options_.seed),
      random_(options_.seed) {}

Result<uint64_t> LoadDriver::prepare(uint64_t count) {
  while (prepared_.size() < std::min(count, options_.sessions)) {
    auto session = workload_->session(options_.first_session + prepared_.size());
    if (!session.ok()) return session.error();
    prepared_.push_back(*std::move(session));
  }
  return static_cast<uint64_t>(prepared_.size());
}

LoadRun LoadDriver::run() {
  std::unique_lock lock(mutex_);
  start_ = Clock::now();
  next_arrival_ = start_ + seconds(arrivals_.next());
  Clock::time_point next_report = start_;
  while (true) {
    const Clock::time_point now = Clock::now();
    if (now >= next_report) {
      report(now);
      next_report = now + kReportInterval;
    }
    if (!stopping_ && !follow_ups_.empty() && follow_ups_.begin()->first <= now) {
      auto next = follow_ups_.extract(follow_ups_.begin());
      send(std::move(next.mapped()), next.key(), &lock);
    } else if (may_start() && next_arrival_ <= now) {
      start_session(&lock);
    } else if (in_flight_.empty() && (stopping_ || (follow_ups_.empty() && !may_start()))) {
      break;
    } else {
      changed_.wait_until(lock, std::min(next_report, next_event(now)));
    }
  }
  result_.duration_s = seconds_since_start(Clock::now());
  result_.connections = pool_->size();
  report(Clock::now());
  return std::move(result_);
}

void LoadDriver::stop() {
  const std::lock_guard lock(mutex_);
  stopping_ = true;
  for (const auto& exchange : in_flight_) exchange->cancellation->cancel();
  changed_.notify_one();
}

// Whether a session may start as soon as it is due.
bool LoadDriver::may_start() const {
  const bool in_time = options_.duration.count() == 0 || Clock::now() < start_ + options_.duration;
  const bool free_place = options_.max_concurrency == 0 ||
                          active_sessions_ < static_cast<uint64_t>(options_.max_concurrency);
  return !stopping_ && in_time && free_place && started_ < options_.sessions;
}

void LoadDriver::start_session(std::unique_lock<std::mutex>* lock) {
  const uint64_t number = started_++;
  auto active = std::make_shared<ActiveSession>();
  if (number < prepared_.size()) {
    active->session = std::move(prepared_[number]);
  } else {
    lock->unlock();
    auto session = workload_->session(options_.first_session + number);
    lock->lock();
    if (!session.ok()) {
      result_.error = session.error();
      stopping_ = true;
      return;
    }
    active->session = *std::move(session);
  }
  const Clock::time_point due = std::exchange(next_arrival_, start_ + seconds(arrivals_.next()));
  ++active_sessions_;
  send(std::move(active), due, lock);
}

void LoadDriver::send(std::shared_ptr<ActiveSession> active, Clock::time_point due,
                      std::unique_lock<std::mutex>* lock) {
  auto exchange = std::make_shared<Exchange>();
  exchange->session = active;
  if (std::uniform_real_distribution<double>(0.0, 1.0)(random_) < options_.cancel_rate) {
    exchange->cancel_after = std::max(1, active->session.output_tokens / 2);
  }
  in_flight_.push_back(exchange);
  lock->unlock();

  exchange->client = &pool_->take();
  std::optional<Image> image;
  if (active->turn == 0 && active->session.image != nullptr) {
    image = Image{*active->session.image};
  }
  active->conversation.ask(active->session.questions[active->turn], std::move(image));
  if (active->session.image != nullptr) {
    exchange->record.image_bytes = static_cast<int64_t>(active->session.image->size());
  }
  ChatRequest request = options_.base;
  request.messages = active->conversation.messages();
  request.stopping.max_tokens = active->session.output_tokens;
  exchange->sent = Clock::now();
  exchange->record.sent_s = seconds_since_start(exchange->sent);
  if (options_.open_loop()) {
    exchange->record.send_delay_ms = milliseconds_between(due, exchange->sent);
  }
  exchange->client->start_stream_chat(
      request, [exchange](const Delta& delta) { exchange->on_delta(delta); },
      [this, exchange](const Result<Answer>& answer) { finish(exchange, answer); },
      exchange->cancellation);
  lock->lock();
}

// On gRPC's thread, the exchange's last callback.
void LoadDriver::finish(const std::shared_ptr<Exchange>& exchange, const Result<Answer>& answer) {
  const Clock::time_point now = Clock::now();
  pool_->give_back(*exchange->client);
  Record& record = exchange->record;
  record.e2el_ms = milliseconds_between(exchange->sent, now);
  if (answer.ok()) {
    record.prompt_tokens = answer->usage.prompt_tokens;
    record.image_tokens = answer->usage.image_tokens;
    record.output_tokens = answer->usage.completion_tokens;
    record.queue_ms = answer->timings.queue_ms;
    record.vision_ms = answer->timings.vision_ms;
  } else if (answer.error().code == Code::kCancelled && exchange->cancellation->cancelled()) {
    record.outcome = exchange->cancelled_as_planned() ? Record::Outcome::kCancelled
                                                      : Record::Outcome::kInterrupted;
  } else {
    record.outcome = Record::Outcome::kFailed;
    record.failure = code_name(answer.error().code);
    if (!answer.error().reason.empty()) record.failure += " " + answer.error().reason;
  }

  const std::lock_guard lock(mutex_);
  std::erase(in_flight_, exchange);
  failed_ += record.outcome == Record::Outcome::kFailed ? 1 : 0;
  result_.records.push_back(std::move(record));
  ActiveSession& active = *exchange->session;
  if (answer.ok() && ++active.turn < active.session.questions.size()) {
    active.conversation.answer(answer->text);
    follow_ups_.emplace(now + options_.think_time, exchange->session);
  } else {
    --active_sessions_;
  }
  changed_.notify_one();
}

// When run() has something to do without being told.
LoadDriver::Clock::time_point LoadDriver::next_event(Clock::time_point now) const {
  Clock::time_point next = now + kReportInterval;
  if (!follow_ups_.empty()) next = std::min(next, follow_ups_.begin()->first);
  if (may_start()) next = std::min(next, next_arrival_);
  return next;
}

void LoadDriver::report(Clock::time_point now) {
  if (!on_progress_) return;
  on_progress_({.done = result_.records.size(),
                .failed = failed_,
                .in_flight = in_flight_.size(),
                .elapsed_s = seconds_since_start(now)});
}

double LoadDriver::seconds_since_start(Clock::time_point time) const {
  return std::chrono::duration<double>(time - start_).count();
}

}  // namespace cogserve::client
