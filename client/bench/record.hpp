// What one request of a load test did. Plain data, filled by LoadDriver, read by the statistics.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace cogserve::client {

struct Record {
  // Cancelled: half-way, as planned. Interrupted: the whole run was stopped.
  enum class Outcome { kCompleted, kFailed, kCancelled, kInterrupted };

  Outcome outcome = Outcome::kCompleted;
  // "RESOURCE_EXHAUSTED QUEUE_FULL"; of a failed request.
  std::string failure;
  // Seconds from the run's start to sending.
  double sent_s = 0;
  // From when it was due to sending; absent in a closed loop, where the server sets the pace.
  std::optional<double> send_delay_ms;
  // Sending to the first piece of text; absent where no text came.
  std::optional<double> ttft_ms;
  // Gaps between the stream's pieces after the first.
  std::vector<double> itl_ms;
  // Sending to the end of the stream.
  double e2el_ms = 0;
  // The server's own counts and times; zero unless completed.
  int32_t prompt_tokens = 0;
  int32_t image_tokens = 0;
  int32_t output_tokens = 0;
  double queue_ms = 0;
  double vision_ms = 0;
  // Encoded picture sent with this request.
  int64_t image_bytes = 0;

  // Mean time of a token after the first; absent below two tokens.
  std::optional<double> tpot_ms() const {
    if (!ttft_ms || output_tokens < 2) return std::nullopt;
    return (e2el_ms - *ttft_ms) / (output_tokens - 1);
  }
};

}  // namespace cogserve::client
