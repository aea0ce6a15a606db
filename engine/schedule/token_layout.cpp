#include "engine/schedule/token_layout.hpp"

#include "engine/base/check.hpp"

namespace cogserve {

TokenLayout make_token_layout(int32_t bos_id, int32_t image_id, int image_tokens,
                              std::span<const int32_t> text_ids) {
  check(image_tokens == 0 || image_tokens >= 3, "an image has boi, a patch and eoi");
  TokenLayout layout;
  layout.image_begin = 1;
  layout.image_tokens = image_tokens;
  const int size = 1 + image_tokens + static_cast<int>(text_ids.size());
  layout.ids.reserve(size);
  layout.ids.push_back(bos_id);
  layout.ids.insert(layout.ids.end(), image_tokens, image_id);
  layout.ids.insert(layout.ids.end(), text_ids.begin(), text_ids.end());

  layout.positions.resize(size);
  layout.vision.resize(size);
  int position = 0;
  for (int index = 1; index < size; ++index) {
    // A patch whose predecessor is one too (boi stands at image_begin) shares its position.
    const int patch = index - layout.image_begin - 1;
    const bool shares = patch >= 1 && patch < image_tokens - 2;
    if (!shares) ++position;
    layout.positions[index] = position;
    layout.vision[index] = layout.is_image(index) && layout.is_image(index + 1);
  }
  return layout;
}

}  // namespace cogserve
