#include "engine/schedule/scheduler_config.hpp"

#include "absl/strings/str_cat.h"
#include "engine/base/error.hpp"

namespace cogserve {

absl::Status check_fits(const SchedulerConfig& config, int prompt_tokens, int max_tokens) {
  if (max_tokens < 1) {
    return invalid_argument("PARAM_RANGE", "max_tokens",
                            absl::StrCat("max_tokens must be at least 1, got ", max_tokens));
  }
  const bool prompt_alone = prompt_tokens >= config.max_model_len;
  if (prompt_alone || max_tokens > config.max_model_len - prompt_tokens) {
    return invalid_argument(
        "CONTEXT_LENGTH", prompt_alone ? "messages" : "max_tokens",
        absl::StrCat("the prompt has ", prompt_tokens,
                     " tokens, picture included, and max_tokens is ", max_tokens,
                     "; together they may be at most ", config.max_model_len));
  }
  // The last sampled token is never fed back.
  const int64_t most = int64_t{config.num_blocks} * config.block_size + 1;
  const int all = prompt_tokens + max_tokens;
  if (all > most) {
    return with_limit(
        invalid_argument("KV_NEVER_FITS", prompt_tokens >= most ? "messages" : "max_tokens",
                         absl::StrCat("the prompt has ", prompt_tokens,
                                      " tokens, picture included, and max_tokens is ", max_tokens,
                                      "; together the server's KV cache takes at most ", most)),
        absl::StrCat(most), absl::StrCat(all));
  }
  return absl::OkStatus();
}

}  // namespace cogserve
