// Requests and answers of the client library: plain values that mirror cogserve/v1/cogserve.proto,
// where each field's range and meaning is documented. An absent optional takes the server's
// default.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

namespace cogserve::client {

enum class Role { kSystem = 1, kUser = 2, kAssistant = 3 };

enum class Template { kServerDefault = 0, kChat = 1, kVqa = 2, kBase = 3 };

// An encoded JPEG, PNG or WebP file.
struct Image {
  std::string bytes = {};
};

using Part = std::variant<std::string, Image>;

struct Message {
  Role role = Role::kUser;
  std::vector<Part> parts = {};
};

struct Sampling {
  std::optional<float> temperature = {};
  std::optional<float> top_p = {};
  std::optional<int32_t> top_k = {};
  std::optional<float> min_p = {};
  std::optional<float> repetition_penalty = {};
  std::optional<float> presence_penalty = {};
  std::optional<float> frequency_penalty = {};
  std::optional<uint64_t> seed = {};
};

struct Stopping {
  std::optional<int32_t> max_tokens = {};
  std::optional<int32_t> min_tokens = {};
  std::vector<std::string> stop = {};
  std::vector<int32_t> stop_token_ids = {};
  bool ignore_eos = false;
};

struct ChatRequest {
  std::string model = {};
  std::vector<Message> messages = {};
  Template prompt_template = Template::kServerDefault;
  Sampling sampling = {};
  Stopping stopping = {};
  std::optional<int32_t> logprobs = {};
  bool return_token_ids = false;
  std::string request_id = {};
};

enum class FinishReason { kUnspecified = 0, kStop = 1, kLength = 2 };

struct Usage {
  int32_t prompt_tokens = 0;
  int32_t image_tokens = 0;
  int32_t completion_tokens = 0;
};

// Milliseconds, measured by the server.
struct Timings {
  double queue_ms = 0;
  double image_decode_ms = 0;
  double vision_ms = 0;
  double prefill_ms = 0;
  double decode_ms = 0;
  double total_ms = 0;
};

struct TopLogprob {
  int32_t token_id = 0;
  // Raw bytes: a character may span several tokens.
  std::string token = {};
  float logprob = 0;
};

struct TokenLogprob {
  TopLogprob chosen = {};
  std::vector<TopLogprob> top = {};
};

struct Answer {
  std::string request_id = {};
  std::string model = {};
  std::string text = {};
  FinishReason finish_reason = FinishReason::kUnspecified;
  std::string matched_stop = {};
  Usage usage = {};
  Timings timings = {};
  std::vector<int32_t> token_ids = {};
  std::vector<TokenLogprob> logprobs = {};
};

// A piece of a streamed answer; whole UTF-8 characters.
struct Delta {
  std::string text = {};
  std::vector<int32_t> token_ids = {};
  std::vector<TokenLogprob> logprobs = {};
};

struct Limits {
  int32_t max_model_len = 0;
  int32_t max_tokens = 0;
  int32_t max_messages = 0;
  int64_t max_prompt_bytes = 0;
  int64_t max_image_bytes = 0;
  int64_t max_image_pixels = 0;
  int32_t max_logprobs = 0;
  int32_t max_num_seqs = 0;
  int32_t max_queue_size = 0;
  int64_t max_message_bytes = 0;
};

struct ModelInfo {
  std::string name = {};
  std::string device = {};
  std::string dtype = {};
  std::string rope_dtype = {};
  Template default_template = Template::kServerDefault;
  int32_t image_tokens = 0;
  int32_t image_size = 0;
  int64_t kv_cache_tokens = 0;
  int32_t kv_block_size = 0;
  int32_t vocab_size = 0;
  Limits limits = {};
  Sampling default_sampling = {};
  std::string server_version = {};
};

enum class Health { kUnknown = 0, kServing = 1, kNotServing = 2, kServiceUnknown = 3 };

}  // namespace cogserve::client
