// What a request may ask for. One table: the validator checks it, GetModel publishes it.
#pragma once

#include <cstddef>

#include "server/image/image_limits.hpp"

namespace cogserve {

struct RequestLimits {
  size_t max_messages = 64;
  size_t max_parts = 64;  // of one message
  size_t max_prompt_bytes = size_t{256} << 10;
  size_t max_request_id_bytes = 64;
  int max_tokens = 4096;
  int default_max_tokens = 1024;
  int max_logprobs = 20;
  int max_top_k = 1024;
  int max_stop_strings = 4;
  size_t max_stop_bytes = 64;
  int max_stop_token_ids = 16;
  image::ImageLimits image;
};

}  // namespace cogserve
