// Draws tokens on the device and brings them to the host later: a draw is started without waiting
// and collected when the host wants its tokens. The ids stay on the device too, as the input of the
// next pass.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/backend/backend.hpp"
#include "engine/backend/cuda/device_memory.hpp"
#include "engine/backend/cuda/own_memory.hpp"
#include "engine/backend/cuda/sampling.hpp"
#include "engine/backend/cuda/staging.hpp"

namespace cogserve::cuda {

class Sampler {
 public:
  // Both are the backend's and outlive this.
  Sampler(const Stream* stream, Staging* staging);

  // See Backend. logits [rows.size(), vocab] f32.
  void start(const Tensor& logits, std::span<const SampleRow> rows);
  void collect(std::span<SampledToken> sampled);

  // The ids of the newest draw, -1 where a row was not finite: an array of the device. It moves
  // when a draw has more rows than any before.
  const int32_t* drawn_ids() const { return static_cast<const int32_t*>(drawn_ids_.get()); }
  int drawn_rows() const { return drawn_rows_; }

 private:
  // A draw on its way to the host.
  struct Draw {
    PinnedMemory results;  // [capacity] SampleResult
    size_t capacity = 0;
    size_t rows = 0;
    Event arrived;
  };

  void reserve(Draw* draw, size_t rows);
  // As many of the first rows as one launch takes.
  size_t rows_of_a_launch(std::span<const SampleRow> rows) const;
  void start_some(const Tensor& logits, std::span<const SampleRow> rows, int32_t* drawn_ids,
                  SampleResult* host);
  void reserve_changed(int64_t vocab);
  float* changed_logits() const { return static_cast<float*>(changed_.get()); }
  int32_t* token_counts() const {
    return static_cast<int32_t*>(changed_.get()) + kChangedRows * changed_vocab_;
  }

  const Stream* stream_;
  Staging* staging_;
  Draw draws_[Backend::kMostDraws];
  size_t oldest_ = 0;
  size_t uncollected_ = 0;
  DeviceMemory results_;    // [kSampleRows] SampleResult
  DeviceMemory drawn_ids_;  // [drawn_capacity_] i32
  size_t drawn_capacity_ = 0;
  int drawn_rows_ = 0;
  // For penalties and bans: logits [kChangedRows, changed_vocab_] f32, then as many counts. Made by
  // the first draw, whether or not it needs them, so that no later one can fail for want of them.
  DeviceMemory changed_;
  int64_t changed_vocab_ = 0;

  // Kept from call to call, so that a steady state allocates nothing.
  Parcel parcel_;
  std::vector<SampleTask> tasks_;
  std::vector<int32_t> ids_;
};

}  // namespace cogserve::cuda
