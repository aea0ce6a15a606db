// Matrices in cogserve's own layout: int4 in groups of 128, or int8 by rows.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "engine/model/packed_matrix.hpp"

namespace cogserve {

absl::StatusOr<std::unique_ptr<PackedMatrix>> find_native_matrix(const MatrixSearch& search);

}  // namespace cogserve
