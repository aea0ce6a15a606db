// Weights of 4-bit codes into a table of 16 values, read as panels of f32.
//
// Stored as the table; scales [panel][group][16]; codes [panel][input][8], byte j holding the codes
// of outputs j (low nibble) and 8 + j of the panel.
#pragma once

#include <cstddef>

#include "engine/backend/cpu/thread_pool.hpp"
#include "engine/backend/weight.hpp"
#include "engine/base/host_weight.hpp"

namespace cogserve::cpu {

// Bytes of a kCodebook4 weight.
size_t codebook_weight_bytes(const HostWeight& form);

// HostWeight -> `weight.storage`.
void pack_codebook_weight(const HostWeight& source, const Weight& weight, ThreadPool& pool);

// W[16 panel .. 16 panel + 15, k .. k + depth - 1] by HostWeight's definition -> values
// [depth][16]: a slice of an f32 panel.
void read_codebook_panel(const Weight& weight, size_t panel, size_t k, size_t depth, float* values);

}  // namespace cogserve::cpu
