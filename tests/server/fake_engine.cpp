#include "tests/server/fake_engine.hpp"

#include <algorithm>
#include <utility>

#include "engine/base/error.hpp"
#include "engine/schedule/scheduler_config.hpp"

namespace cogserve {
namespace {

// Of models/demo: the text tokens stand before the special ones.
constexpr int kPlainTokens = 600;
constexpr int kVocab = 640;
constexpr int32_t kBosId = 632;
constexpr int32_t kEosId = 633;
constexpr int32_t kImageId = 634;
constexpr int32_t kSecondEosId = 639;

// How often deadlines and stalled readers are looked at while nothing else happens.
constexpr std::chrono::milliseconds kTick{5};

uint64_t mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

EngineInfo make_info(const EngineConfig& config) {
  EngineInfo info;
  info.model.layers = 1;
  info.model.hidden = 8;
  info.model.heads = 1;
  info.model.kv_heads = 1;
  info.model.vocab = kVocab;
  info.model.max_positions = 8192;
  info.model.bos_id = kBosId;
  info.model.image_id = kImageId;
  info.model.eos_ids = {kEosId, kSecondEosId};
  info.model.template_name = "chat";
  info.model.vision.image_size = 112;
  info.model.vision.layers = 1;
  info.generation.temperature = 0.6f;
  info.generation.top_p = 0.9f;
  info.device = "fake";
  info.dtype = "bf16";
  info.rope_dtype = "bf16";
  info.max_model_len = config.max_model_len == 0 ? 8192 : config.max_model_len;
  info.block_size = 16;
  info.num_blocks =
      config.kv_cache_bytes == 0 ? 4096 : static_cast<int>(config.kv_cache_bytes / kFakeBlockBytes);
  return info;
}

}  // namespace

int32_t fake_token(const std::vector<int32_t>& text_ids, bool picture, int index) {
  uint64_t state = mix(picture ? 1 : 0);
  for (const int32_t id : text_ids) state = mix(state ^ static_cast<uint64_t>(id));
  return static_cast<int32_t>(mix(state ^ static_cast<uint64_t>(index)) % kPlainTokens);
}

FakeEngine::FakeEngine(const EngineConfig& config)
    : config_(config), info_(make_info(config)), thread_([this] { loop(); }) {}

FakeEngine::~FakeEngine() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  thread_.join();
  for (const Sequence& sequence : running_) {
    end(sequence, absl::CancelledError("stopped"), FinishReason::kStop);
  }
}

absl::StatusOr<std::shared_ptr<TokenStream>> FakeEngine::submit(Request request) {
  const bool picture = !request.pixels.empty();
  const SchedulerConfig room{.num_blocks = info_.num_blocks,
                             .block_size = info_.block_size,
                             .max_model_len = info_.max_model_len};
  if (absl::Status status = check_fits(room, prompt_tokens(request, picture), request.max_tokens);
      !status.ok()) {
    return status;
  }
  std::shared_ptr<TokenStream> stream;
  {
    const std::lock_guard lock(mutex_);
    if (!refusal_.ok()) return refusal_;
    Sequence sequence;
    sequence.picture = picture;
    request.pixels.clear();
    last_request_ = request;
    sequence.request = std::move(request);
    sequence.script = script_;
    stream = std::make_shared<TokenStream>(config_.outbox_tokens, [this] {
      {
        const std::lock_guard reader_lock(mutex_);
        poked_ = true;
      }
      wake_.notify_all();
    });
    sequence.stream = stream;
    running_.push_back(std::move(sequence));
    ++submitted_;
    poked_ = true;
  }
  wake_.notify_all();
  changed_.notify_all();
  return stream;
}

void FakeEngine::refuse_pictures(absl::Status status) {
  const std::lock_guard lock(mutex_);
  picture_refusal_ = std::move(status);
}

absl::Status FakeEngine::check_room(uint64_t caller, size_t bytes) const {
  const std::lock_guard lock(mutex_);
  last_room_asker_ = caller;
  if (bytes > 0 && !picture_refusal_.ok()) return picture_refusal_;
  return refusal_.code() == absl::StatusCode::kResourceExhausted ? refusal_ : absl::OkStatus();
}

int FakeEngine::image_tokens(bool picture) const {
  return picture ? info_.model.vision.image_tokens() : 0;
}

int FakeEngine::prompt_tokens(const Request& request, bool picture) const {
  return 1 + image_tokens(picture) + static_cast<int>(request.text_ids.size());
}

EngineStats FakeEngine::stats() const {
  const std::lock_guard lock(mutex_);
  EngineStats stats;
  stats.running = static_cast<int>(running_.size());
  stats.steps = steps_;
  return stats;
}

Clock::duration FakeEngine::silence() const {
  const std::lock_guard lock(mutex_);
  return silence_;
}

bool FakeEngine::healthy() const {
  const std::lock_guard lock(mutex_);
  return healthy_;
}

void FakeEngine::pause() {
  const std::lock_guard lock(mutex_);
  paused_ = true;
  allowed_steps_ = 0;
}

void FakeEngine::allow_steps(int steps) {
  {
    const std::lock_guard lock(mutex_);
    allowed_steps_ += steps;
  }
  wake_.notify_all();
}

void FakeEngine::resume() {
  {
    const std::lock_guard lock(mutex_);
    paused_ = false;
  }
  wake_.notify_all();
}

void FakeEngine::set_script(std::vector<int32_t> tokens) {
  const std::lock_guard lock(mutex_);
  script_ = std::move(tokens);
}

void FakeEngine::fail_running(absl::Status status) {
  {
    const std::lock_guard lock(mutex_);
    fail_status_ = std::move(status);
    poked_ = true;
  }
  wake_.notify_all();
}

void FakeEngine::refuse_submissions(absl::Status status) {
  const std::lock_guard lock(mutex_);
  refusal_ = std::move(status);
}

void FakeEngine::set_healthy(bool healthy) {
  const std::lock_guard lock(mutex_);
  healthy_ = healthy;
}

void FakeEngine::set_silence(Clock::duration silence) {
  const std::lock_guard lock(mutex_);
  silence_ = silence;
}

void FakeEngine::wait_until_running(int sequences) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return static_cast<int>(running_.size()) == sequences; });
}

void FakeEngine::wait_until_submitted(int requests) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return submitted_ >= requests; });
}

int FakeEngine::submitted() const {
  const std::lock_guard lock(mutex_);
  return submitted_;
}

uint64_t FakeEngine::last_room_asker() const {
  const std::lock_guard lock(mutex_);
  return last_room_asker_;
}

Request FakeEngine::last_request() const {
  const std::lock_guard lock(mutex_);
  return last_request_;
}

uint64_t FakeEngine::tokens_sampled() const {
  const std::lock_guard lock(mutex_);
  return tokens_sampled_;
}

void FakeEngine::loop() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    const bool may_sample = !paused_ || allowed_steps_ > 0;
    if (paused_ && allowed_steps_ > 0 && !running_.empty()) --allowed_steps_;
    if (step(may_sample)) {
      lock.unlock();
      std::this_thread::yield();  // let submitters and readers have the mutex
      lock.lock();
      continue;
    }
    wake_.wait_for(lock, kTick, [this] {
      return stopping_ || std::exchange(poked_, false) ||
             (paused_ && allowed_steps_ > 0 && !running_.empty());
    });
  }
}

// Streams are woken with the mutex held: their callbacks only count and queue, and readers poke the
// engine outside of any callback.
bool FakeEngine::step(bool may_sample) {
  const Clock::time_point now = Clock::now();
  const size_t before = running_.size();
  const uint64_t sampled_before = tokens_sampled_;
  ++steps_;
  for (auto it = running_.begin(); it != running_.end();) {
    absl::Status status;
    FinishReason reason = FinishReason::kLength;
    bool ended = ends_early(&*it, now, &status);
    if (!ended && may_sample && !it->stream->full()) {
      sample(&*it);
      const bool script_over =
          it->script.has_value() && it->sampled > static_cast<int>(it->script->size());
      if (script_over) reason = FinishReason::kStop;
      ended = script_over || it->sampled >= it->request.max_tokens;
    }
    if (ended) end(*it, status, reason);
    it = ended ? running_.erase(it) : std::next(it);
  }
  fail_status_ = absl::OkStatus();
  if (running_.size() != before) changed_.notify_all();
  return running_.size() != before || tokens_sampled_ != sampled_before;
}

bool FakeEngine::ends_early(Sequence* sequence, Clock::time_point now, absl::Status* status) const {
  if (!sequence->stream->full()) sequence->full_since = Clock::time_point::max();
  if (sequence->stream->full() && sequence->full_since == Clock::time_point::max()) {
    sequence->full_since = now;
  }
  if (!fail_status_.ok()) *status = fail_status_;
  if (sequence->stream->cancelled()) *status = absl::CancelledError("cancelled");
  if (now >= sequence->request.deadline) {
    *status = make_error(absl::StatusCode::kDeadlineExceeded, "DEADLINE_EXCEEDED", "",
                         "the deadline passed while decoding");
  }
  if (sequence->sampled == 0 && now >= sequence->request.first_token_by) {
    *status = make_error(absl::StatusCode::kDeadlineExceeded, "FIRST_TOKEN_TIMEOUT", "",
                         "the first token did not come in time");
  }
  if (sequence->full_since != Clock::time_point::max() &&
      now - sequence->full_since > config_.slow_reader_time) {
    *status = make_error(absl::StatusCode::kResourceExhausted, "SLOW_READER", "",
                         "the client read too slowly");
  }
  return !status->ok();
}

void FakeEngine::sample(Sequence* sequence) {
  TokenEvent event;
  const int index = sequence->sampled++;
  if (!sequence->script.has_value()) {
    event.token.id = fake_token(sequence->request.text_ids, sequence->picture, index);
  } else if (index < static_cast<int>(sequence->script->size())) {
    event.token.id = (*sequence->script)[static_cast<size_t>(index)];
  } else {
    event.token.id = kEosId;
  }
  event.token.logprob = -0.5f;
  for (int i = 0; i < sequence->request.sampling.logprobs; ++i) {
    event.token.top.push_back({i, -0.5f - static_cast<float>(i)});
  }
  ++tokens_sampled_;
  sequence->stream->push(std::move(event));
}

void FakeEngine::end(const Sequence& sequence, const absl::Status& status, FinishReason reason) {
  EndEvent end;
  end.status = status;
  end.reason = reason;
  end.image_tokens = image_tokens(sequence.picture);
  end.prompt_tokens = prompt_tokens(sequence.request, sequence.picture);
  end.completion_tokens = sequence.sampled;
  end.timings = kFakeTimings;
  sequence.stream->finish(std::move(end));
}

}  // namespace cogserve
