// How far a backend that rounds its activations may be from the reference.
//
// A 16-bit backend rounds every matrix that the model writes, and sums in f32. One rounding is a
// relative error of at most `unit` (2^-8 in bf16, 2^-11 in f16), with a root mean square of about
// 0.4 unit; N of them one after the other, independent and each passed on as it is, make 0.4 unit
// sqrt(N) of the result's root mean square: `expected` below. Weights that are stored in another
// dtype are rounded once more for each product. Blocks pass errors on enlarged or reduced: with the
// reference in tests/reference, and each of its matrices rounded to bf16, the golden sets have root
// mean squares of 0.4 to 1.9 times the expected, and worst values of up to 11 times, which rounding
// the softmax's weights too makes a little more. The limits leave room for half as much again.
#pragma once

#include <cmath>

#include "engine/base/dtype.hpp"
#include "engine/config.hpp"

namespace cogserve {

class Rounding {
 public:
  // `activation` is the backend's dtype, `stored` the checkpoint's.
  Rounding(const ModelConfig& config, DType activation, DType stored)
      : activation_(activation),
        tower_((kPatchRoundings + 8.0 * config.vision.layers + kAdapterRoundings) *
               (stored == activation ? 1 : 2)),
        decoder_((kDecoderRoundings * config.layers + kHeadRoundings) *
                 (stored == activation ? 1 : 2)) {}

  // Nothing is rounded below f32.
  bool exact() const { return activation_ == DType::kF32; }

  // Largest difference of a value, for results with that root mean square.
  double features_limit(double rms) const {
    return exact() ? 1e-4 : kWorst * expected(tower_) * rms;
  }
  double logits_limit(double rms, bool with_picture) const {
    return exact() ? 1e-3 : kWorst * expected_logits(with_picture) * rms;
  }
  // Root mean square of the differences of many values.
  double typical_features_limit(double rms) const {
    return exact() ? 1e-4 : kTypical * expected(tower_) * rms;
  }
  double typical_logits_limit(double rms, bool with_picture) const {
    return exact() ? 1e-3 : kTypical * expected_logits(with_picture) * rms;
  }

 private:
  // q, k and v; rotation; attention; dense; sum; the same count for norms, gate or up, their
  // product, down and sum.
  static constexpr double kDecoderRoundings = 11;
  static constexpr double kHeadRoundings = 3;
  static constexpr double kPatchRoundings = 3;
  static constexpr double kAdapterRoundings = 8;
  static constexpr double kWorst = 16;
  static constexpr double kTypical = 3;

  double expected(double roundings) const {
    const double unit = activation_ == DType::kBF16 ? 0x1p-8 : 0x1p-11;
    return 0.4 * unit * std::sqrt(roundings);
  }
  double expected_logits(bool with_picture) const {
    return expected(decoder_ + (with_picture ? tower_ : 0.0));
  }

  DType activation_;
  double tower_;
  double decoder_;
};

}  // namespace cogserve
