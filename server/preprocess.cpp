#include "server/preprocess.hpp"

#include <algorithm>
#include <random>
#include <string>
#include <utility>

#include "engine/base/error.hpp"
#include "server/exception_status.hpp"
#include "server/image/image_reader.hpp"

namespace cogserve {
namespace {

// What a queued job is taken to cost, for the advice when to come back.
constexpr std::chrono::milliseconds kPictureCost{100};
constexpr std::chrono::milliseconds kTextCost{5};

uint64_t random_seed() {
  std::random_device device;
  return (uint64_t{device()} << 32) | device();
}

// Neighbouring inputs give unrelated outputs (the finaliser of SplitMix64).
uint64_t scramble(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

absl::Status cancelled_error() { return absl::CancelledError("cancelled before it started"); }

// Pictures and engine name a field by its last part; callers know it by its whole path.
absl::Status with_field(const absl::Status& status, const std::string& field) {
  const std::string message(status.message());
  absl::Status named = make_error(status.code(), error_reason(status), field, message);
  if (const std::string limit = error_limit(status); !limit.empty()) {
    named = with_limit(std::move(named), limit, error_got(status));
  }
  return named;
}

// The engine knows no messages; its field is ours by another name.
absl::Status engine_refusal(const absl::Status& status) {
  return error_field(status) == "max_tokens" ? with_field(status, "stopping.max_tokens") : status;
}

}  // namespace

Preprocessor::Preprocessor(Engine* engine, const text::Tokenizer* tokenizer,
                           const RequestLimits& limits, uint64_t seed, const PreprocessLimits& pool)
    : engine_(engine),
      tokenizer_(tokenizer),
      limits_(limits),
      pool_(pool),
      base_seed_(seed != 0 ? seed : random_seed()) {
  for (int i = 0; i < pool_.threads; ++i) threads_.emplace_back([this] { work(); });
}

Preprocessor::~Preprocessor() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) thread.join();
  for (const PreprocessJob& job : queue_) job.done(cancelled_error());
}

absl::Status Preprocessor::check_room(const PreprocessJob& job) {
  const bool picture = job.request.has_image;
  int all = 0, own = 0;
  for (const PreprocessJob& other : queue_) {
    if (other.request.has_image != picture) continue;
    ++all;
    own += job.caller != 0 && other.caller == job.caller;
  }
  const int limit = picture ? pool_.max_queued_pictures : pool_.max_queued_texts;
  const auto refuse = [&](const char* reason, const std::string& whose, int64_t most, int got) {
    const auto wait = all * (picture ? kPictureCost : kTextCost) / pool_.threads;
    const absl::Status refused = make_error(
        absl::StatusCode::kResourceExhausted, reason, "",
        whose + (picture ? " pictures wait to be read" : " requests wait to be tokenized"));
    return with_limit(with_retry_delay(refused, jittered_delay(wait, refused_++)),
                      std::to_string(most), std::to_string(got));
  };
  if (all >= limit) {
    return refuse(picture ? "DECODE_QUEUE" : "QUEUE_FULL", "too many", limit, all + 1);
  }
  const int64_t share = queue_share(own, limit - all);
  if (own == 0 || own + 1 <= share) return absl::OkStatus();
  return refuse("TENANT_QUOTA", "too many of this caller's", share, own + 1);
}

absl::Status Preprocessor::submit(PreprocessJob job) {
  {
    const std::lock_guard lock(mutex_);
    if (absl::Status full = check_room(job); !full.ok()) return full;
    job.queued = Clock::now();
    queue_.push_back(std::move(job));
  }
  wake_.notify_one();
  return absl::OkStatus();
}

void Preprocessor::work() {
  std::unique_lock lock(mutex_);
  while (true) {
    wake_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
    if (stopping_) return;
    const auto next = turns_.next(queue_.begin(), queue_.end(),
                                  [](const PreprocessJob& job) { return job.caller; });
    const PreprocessJob job = std::move(*next);
    queue_.erase(next);
    const absl::Status over = check_alive(job);
    if (over.ok()) turns_.take(job.caller);  // what is over takes no turn
    lock.unlock();
    job.done(over.ok() ? process(job) : over);
    lock.lock();
  }
}

absl::Status Preprocessor::check_alive(const PreprocessJob& job) {
  if (job.cancelled()) return cancelled_error();
  if (Clock::now() < job.deadline) return absl::OkStatus();
  return with_phase(make_error(absl::StatusCode::kDeadlineExceeded, "DEADLINE_EXCEEDED", "",
                               "the deadline passed while the request waited to be read"),
                    "queue");
}

// The border of this stage: whatever goes wrong here ends one request and no more.
absl::StatusOr<Submission> Preprocessor::process(const PreprocessJob& job) {
  try {
    return prepare(job);
  } catch (...) {
    return status_of_exception();
  }
}

absl::StatusOr<Submission> Preprocessor::prepare(const PreprocessJob& job) {
  const CheckedRequest& from = job.request;
  const Clock::duration waited = Clock::now() - job.queued;
  const auto prompt = text::render_prompt(from.chat_template, from.turns, from.has_image);
  if (!prompt.ok()) return prompt.status();
  auto ids = tokenizer_->encode(*prompt);
  if (!ids.ok()) return ids.status();
  const VisionConfig& vision = engine_->info().model.vision;
  const int image_tokens = from.has_image ? vision.image_tokens() : 0;
  const auto max_tokens =
      resolve_max_tokens(from, 1 + image_tokens + static_cast<int>(ids->size()));
  if (!max_tokens.ok()) return max_tokens.status();

  Submission submission;
  Request request;
  // Before a picture is read.
  const size_t values = from.has_image ? size_t{3} * vision.image_size * vision.image_size : 0;
  absl::Status room = engine_->check_room(job.caller, values * sizeof(float));
  if (!room.ok()) return room;
  if (from.has_image) {
    const Clock::time_point begin = Clock::now();
    auto pixels = image::read_image(from.image, vision.image_size, limits_.image);
    if (!pixels.ok()) return with_field(pixels.status(), from.image_field);
    submission.image_decode = Clock::now() - begin;
    request.pixels = *std::move(pixels);
    if (job.cancelled()) return cancelled_error();
  }
  request.id = from.request_id;
  request.text_ids = *std::move(ids);
  request.sampling = from.sampling;
  request.sampling.seed = from.seed.has_value() ? *from.seed : fresh_seed();
  request.max_tokens = *max_tokens;
  request.min_tokens = from.min_tokens;
  request.ignore_eos = from.ignore_eos;
  request.stop_token_ids = from.stop_token_ids;
  request.caller = job.caller;
  request.waited = waited;
  request.deadline = job.deadline;
  request.first_token_by = job.first_token_by;
  auto stream = engine_->submit(std::move(request));
  if (!stream.ok()) return engine_refusal(stream.status());
  submission.stream = *std::move(stream);
  return submission;
}

absl::StatusOr<int> Preprocessor::resolve_max_tokens(const CheckedRequest& request,
                                                     int prompt_tokens) const {
  const EngineInfo& info = engine_->info();
  const int room = info.max_model_len - prompt_tokens;
  const auto refuse = [&](const char* field, int got) {
    return with_limit(
        invalid_argument("CONTEXT_LENGTH", field,
                         "the prompt has " + std::to_string(prompt_tokens) +
                             " tokens; with the answer's that makes " + std::to_string(got) +
                             ", the model takes " + std::to_string(info.max_model_len)),
        std::to_string(info.max_model_len), std::to_string(got));
  };
  if (room < 1) return refuse("messages", prompt_tokens + 1);
  if (request.max_tokens.has_value()) {
    if (*request.max_tokens > room) {
      return refuse("stopping.max_tokens", prompt_tokens + *request.max_tokens);
    }
    return *request.max_tokens;
  }
  if (request.min_tokens > room) {
    return refuse("stopping.min_tokens", prompt_tokens + request.min_tokens);
  }
  // A cache smaller than one context limits what fits, too; the last token is never fed back. The
  // engine refuses what it never can.
  const int64_t cache_room = std::max<int64_t>(info.kv_tokens() - prompt_tokens + 1, 1);
  const auto most = std::min<int64_t>({limits_.default_max_tokens, room, cache_room});
  if (request.min_tokens <= most) return static_cast<int>(most);
  return with_limit(
      invalid_argument("KV_NEVER_FITS", "stopping.min_tokens",
                       "min_tokens is " + std::to_string(request.min_tokens) +
                           "; beside a prompt of " + std::to_string(prompt_tokens) +
                           " tokens the server's KV cache has room for " + std::to_string(most)),
      std::to_string(most), std::to_string(request.min_tokens));
}

uint64_t Preprocessor::fresh_seed() {
  return scramble(base_seed_ + 0x9e3779b97f4a7c15u * ++seeds_drawn_);
}

}  // namespace cogserve
