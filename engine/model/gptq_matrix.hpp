// Matrices in the 4-bit layout of GPTQ, which AutoRound writes too.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "engine/model/packed_matrix.hpp"

namespace cogserve {

absl::StatusOr<std::unique_ptr<PackedMatrix>> find_gptq_matrix(const MatrixSearch& search);

}  // namespace cogserve
