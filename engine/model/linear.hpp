// One linear layer: a weight and, where the model has one, a bias.
#pragma once

#include "engine/backend/backend.hpp"

namespace cogserve {

struct Linear {
  Weight weight;
  Parameter bias;  // empty where the model has none
};

// y = W x + b. No rows is no work.
inline void apply(Backend* backend, const Linear& linear, const Tensor& x, const Tensor& y) {
  if (x.rows == 0) return;
  const Tensor& bias = linear.bias.tensor;
  backend->linear(x, linear.weight, bias.data == nullptr ? nullptr : &bias, y);
}

}  // namespace cogserve
