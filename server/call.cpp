#include "server/call.hpp"

#include <algorithm>
#include <cstdio>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/error.hpp"
#include "server/access/callers.hpp"
#include "server/exception_status.hpp"
#include "server/log.hpp"

namespace cogserve {
namespace {

std::string make_request_id() {
  static std::atomic<uint64_t> count{0};
  static const uint64_t start =
      static_cast<uint64_t>(std::chrono::system_clock::now().time_since_epoch().count());
  char text[40];
  std::snprintf(text, sizeof(text), "req-%llx-%llu", static_cast<unsigned long long>(start),
                static_cast<unsigned long long>(++count));
  return text;
}

absl::Status slow_reader() {
  return make_error(absl::StatusCode::kResourceExhausted, "SLOW_READER", "",
                    "the client read too slowly; the answer was given up");
}

OutputOptions output_options(const CheckedRequest& request) {
  OutputOptions options;
  options.stop = request.stop;
  options.stop_token_ids = request.stop_token_ids;
  options.min_tokens = request.min_tokens;
  options.ignore_eos = request.ignore_eos;
  options.return_token_ids = request.return_token_ids;
  options.return_logprobs = request.sampling.logprobs >= 0;
  options.strip_leading_space = request.chat_template != text::Template::kBase;
  return options;
}

}  // namespace

Call::Call(ServedModel* model, CallTransport* transport, CheckedRequest request,
           CallDeadline deadline, std::string caller, bool log)
    : SerialTask(&model->executor()),
      model_(model),
      request_id_(request.request_id.empty() ? make_request_id() : request.request_id),
      received_(Clock::now()),
      deadline_(deadline),
      caller_(std::move(caller)),
      log_(log),
      output_(output_options(request)),
      request_(std::move(request)),
      transport_(transport) {
  request_.request_id = request_id_;
}

void Call::start() {
  const auto self = std::static_pointer_cast<Call>(shared_from_this());
  PreprocessJob job;
  job.request = std::move(request_);
  job.caller = caller_number(caller_);
  job.deadline = deadline_.at;
  job.first_token_by = deadline_.first_token_by;
  job.cancelled = [self] { return self->aborted(); };
  job.done = [self](absl::StatusOr<Submission> submission) {
    self->on_prepared(std::move(submission));
  };
  if (absl::Status status = model_->preprocessor().submit(std::move(job)); !status.ok()) {
    on_prepared(std::move(status));
  }
}

void Call::on_prepared(absl::StatusOr<Submission> submission) {
  {
    const std::lock_guard lock(mutex_);
    submission_ = std::move(submission);
  }
  wake();
}

void Call::abort(absl::Status reason) {
  {
    const std::lock_guard lock(mutex_);
    if (!abort_reason_.ok()) return;
    abort_reason_ = std::move(reason);
  }
  aborted_.store(true, std::memory_order_release);
  wake();
}

bool Call::on_client_gone(Clock::time_point now) {
  // A client's reset overtakes our own copy of its deadline: gRPC rounds it up on the wire (to 10
  // ms from one second on, to 100 ms from ten), and counts it from when the call came in.
  const Clock::duration whole = deadline_.at - received_;
  const Clock::duration lead = std::min(std::chrono::milliseconds(10) + whole / 50, whole / 2);
  const bool by_deadline = !deadline_.is_servers && now >= deadline_.at - lead;
  abort(by_deadline ? make_error(absl::StatusCode::kDeadlineExceeded, "DEADLINE_EXCEEDED", "",
                                 "the client's deadline passed")
                    : absl::CancelledError());
  return !by_deadline;
}

absl::Status Call::abort_reason() const {
  const std::lock_guard lock(mutex_);
  return abort_reason_;
}

void Call::on_written(bool ok) {
  writing_.store(false, std::memory_order_release);
  // A write that fails means that nobody listens any more.
  if (!ok) abort(absl::CancelledError());
  wake();
}

bool Call::check_stall(Clock::time_point now, Clock::time_point awake_since,
                       std::chrono::milliseconds patience) {
  if (!writing_.load(std::memory_order_acquire)) return false;
  const auto stalled = now - std::max(write_began_.load(std::memory_order_relaxed), awake_since);
  if (stalled > patience) abort(slow_reader());
  return stalled > 2 * patience;
}

void Call::step() {
  try {
    advance();
  } catch (...) {
    abort(status_of_exception());
    advance();
  }
}

void Call::advance() {
  take_submission();
  if (transport_ == nullptr) return;
  if (aborted()) {
    if (generation_.has_value()) generation_->cancel();
    finish(abort_reason(), {});
  } else if (generation_.has_value() && !writing_.load(std::memory_order_acquire)) {
    deliver();
  }
}

void Call::take_submission() {
  std::optional<absl::StatusOr<Submission>> arrived;
  {
    const std::lock_guard lock(mutex_);
    arrived.swap(submission_);
  }
  if (!arrived.has_value()) return;
  if (!arrived->ok()) {
    // Of a call that was aborted the preprocessor knows no more than that.
    finish(aborted() ? abort_reason() : arrived->status(), {});
    return;
  }
  const std::shared_ptr<TokenStream> stream = (*arrived)->stream;
  if (transport_ == nullptr) {  // aborted while the request was being prepared
    stream->cancel();
    return;
  }
  generation_.emplace(*model_, output_, **std::move(arrived), received_);
  stream->set_ready_callback([self = shared_from_this()] { self->wake(); });
}

void Call::deliver() {
  delta_.Clear();
  if (generation_->take(&delta_)) {
    write_began_.store(Clock::now(), std::memory_order_relaxed);
    writing_.store(true, std::memory_order_release);
    tokens_written_ = generation_->tokens();
    transport_->write(&delta_);
  } else if (generation_->ended()) {
    finish(generation_->status(), generation_->final());
  }
}

// Where the time was the server's to set, says so, and how long that is.
absl::Status Call::name_time_limit(const absl::Status& status) const {
  const std::string reason = error_reason(status);
  const std::string spent = format_ms(Clock::now() - received_);
  if (reason == "FIRST_TOKEN_TIMEOUT") {
    return with_limit(status, format_ms(deadline_.first_token_by - received_), spent);
  }
  if (reason != "DEADLINE_EXCEEDED" || !deadline_.is_servers) return status;
  const absl::Status named =
      make_error(status.code(), "REQUEST_TIMEOUT", "",
                 absl::StrCat("the server lets no call take so long: ", status.message()));
  return with_phase(with_limit(named, format_ms(deadline_.at - received_), spent),
                    error_phase(status));
}

void Call::finish(const absl::Status& status, const v1::Final& final) {
  if (transport_ == nullptr) return;
  absl::Status named = name_time_limit(status);
  if (!named.ok() && tokens_written_ > 0 && transport_->delivers()) {
    named = after_tokens(std::move(named), tokens_written_);
  }
  if (log_) log_end(named, final);
  // The end, too, must be taken.
  write_began_.store(Clock::now(), std::memory_order_relaxed);
  writing_.store(true, std::memory_order_release);
  std::exchange(transport_, nullptr)->finish(named, final);
}

void Call::log_end(const absl::Status& status, const v1::Final& final) const {
  const std::string code = absl::StatusCodeToString(status.code());
  const std::string reason = error_reason(status);
  const double total = std::chrono::duration<double, std::milli>(Clock::now() - received_).count();
  log_event(LogLevel::kInfo, "request.done",
            {{"id", request_id_},
             {"caller", caller_},
             {"code", code},
             {"reason", status.ok() ? v1::FinishReason_Name(final.finish_reason()) : reason},
             {"prompt_tokens", int64_t{final.usage().prompt_tokens()}},
             {"completion_tokens", int64_t{final.usage().completion_tokens()}},
             {"queue_ms", final.timings().queue_ms()},
             {"image_decode_ms", final.timings().image_decode_ms()},
             {"vision_ms", final.timings().vision_ms()},
             {"prefill_ms", final.timings().prefill_ms()},
             {"decode_ms", final.timings().decode_ms()},
             {"total_ms", total}});
}

}  // namespace cogserve
