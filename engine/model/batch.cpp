#include "engine/model/batch.hpp"

namespace cogserve {

bool Batch::decodes() const {
  const auto count = static_cast<size_t>(rows());
  if (vision_rows > 0 || !image_rows.empty()) return false;
  if (runs.size() != count || logit_rows.size() != count) return false;
  for (size_t row = 0; row < count; ++row) {
    const auto index = static_cast<int>(row);
    if (runs[row].row_begin != index || runs[row].row_count != 1) return false;
    if (logit_rows[row] != index) return false;
  }
  return true;
}

}  // namespace cogserve
