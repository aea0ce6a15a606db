// Matrices in the 4-bit layout of bitsandbytes: fp4 or nf4, with plain or nested scales.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "engine/model/packed_matrix.hpp"

namespace cogserve {

absl::StatusOr<std::unique_ptr<PackedMatrix>> find_bitsandbytes_matrix(const MatrixSearch& search);

}  // namespace cogserve
