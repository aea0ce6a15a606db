// The three clocks of a prompt's tokens, computed once for the whole prompt.
//
// A token has an index (its KV slot, and what the causal mask compares), a RoPE position (all
// inner image tokens share one) and an expert (which needs the type of the *next* token, so it
// must never be derived per chunk). Source: the upstream model's `build_position_ids` and
// `get_expert_mask`.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace cogserve {

struct TokenLayout {
  std::vector<int32_t> ids;        // [n], the image id at image tokens
  std::vector<int32_t> positions;  // [n]
  std::vector<uint8_t> vision;     // [n], 1 = vision expert
  int image_begin = 0;             // index of boi; 1 wherever there is an image
  int image_tokens = 0;            // boi, patches, eoi; 0 without an image

  int size() const { return static_cast<int>(ids.size()); }
  bool is_image(int index) const {
    return index >= image_begin && index < image_begin + image_tokens;
  }
  // RoPE position of generated token `i` (0-based): decoding goes on from the last position, not
  // from the length.
  int generated_position(int i) const { return positions.back() + 1 + i; }
};

// BOS, image (if `image_tokens` > 0), text. `image_tokens` is 0 or at least 3.
TokenLayout make_token_layout(int32_t bos_id, int32_t image_id, int image_tokens,
                              std::span<const int32_t> text_ids);

}  // namespace cogserve
