// Device memory that the backend keeps for itself, whatever the model: part of every memory plan.
// No CUDA here, so that plans can be made without it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace cogserve::cuda {

// The driver backs memory by pages of this size: an allocation takes whole ones, but for small
// ones, which share them.
inline constexpr size_t kGranularity = size_t{2} << 20;

// For cuBLASLt: what NVIDIA recommends for Hopper; more than the others need.
inline constexpr size_t kMatmulWorkspaceBytes = size_t{32} << 20;
// Quantised weights that are unpacked for products with many rows; while loading, parts of weights
// as the file has them.
inline constexpr size_t kUnpackedBytes = size_t{32} << 20;
// Partial results of split attention.
inline constexpr size_t kAttentionScratchBytes = size_t{32} << 20;
// The ring of host arrays under way. The largest parcels are a step's block tables and the ids that
// penalties look at: 8192 tokens of a few dozen sequences.
inline constexpr size_t kStagingSegmentBytes = size_t{4} << 20;
inline constexpr int kStagingSegments = 4;
// Rows that one launch samples, and those of them that penalties or bans may change: such a row
// takes a copy of its logits and a count for each token id.
inline constexpr size_t kSampleRows = 64;
inline constexpr size_t kChangedRows = 32;
inline constexpr size_t kChangedBytesPerTokenId = kChangedRows * (sizeof(float) + sizeof(int32_t));

// With the arrays of a pass, which are as large as a segment may be, and a page for what is small:
// the results of draws.
inline constexpr size_t kOwnBytes = kMatmulWorkspaceBytes + kUnpackedBytes +
                                    kAttentionScratchBytes +
                                    kStagingSegmentBytes * (kStagingSegments + 1) + kGranularity;

// Context, modules and what the libraries keep, with some margin: an estimate, not a measurement.
inline constexpr size_t kContextBytes = size_t{896} << 20;
// Of that, what is not there yet when a backend has just been made: an estimate too.
inline constexpr size_t kLateContextBytes = size_t{256} << 20;

}  // namespace cogserve::cuda
