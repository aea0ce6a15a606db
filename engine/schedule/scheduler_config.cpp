#include "engine/schedule/scheduler_config.hpp"

#include "absl/strings/str_cat.h"
#include "engine/base/error.hpp"
#include "engine/schedule/block_manager.hpp"

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
  const int blocks = blocks_for(prompt_tokens + max_tokens - 1, config.block_size);
  if (blocks > config.num_blocks) {
    return invalid_argument(
        "KV_NEVER_FITS", "max_tokens",
        absl::StrCat("a prompt of ", prompt_tokens, " tokens and max_tokens ", max_tokens, " need ",
                     blocks, " KV blocks of ", config.block_size, " tokens; the server has ",
                     config.num_blocks));
  }
  return absl::OkStatus();
}

}  // namespace cogserve
