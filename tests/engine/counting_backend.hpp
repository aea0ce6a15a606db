// The CPU backend, but it counts the bytes of the weights that it loads.
#pragma once

#include <cstdint>

#include "tests/engine/forwarding_backend.hpp"

namespace cogserve {

class CountingBackend : public ForwardingBackend {
 public:
  absl::StatusOr<Weight> load_weight(const HostWeight& source) override {
    auto weight = ForwardingBackend::load_weight(source);
    bytes += weight->storage.bytes();
    return weight;
  }
  absl::StatusOr<Parameter> load_vector(const HostTensor& source) override {
    auto parameter = ForwardingBackend::load_vector(source);
    bytes += parameter->storage.bytes();
    return parameter;
  }
  absl::StatusOr<Parameter> load_table(const HostTensor& source) override {
    auto parameter = ForwardingBackend::load_table(source);
    bytes += parameter->storage.bytes();
    return parameter;
  }

  int64_t bytes = 0;
};

}  // namespace cogserve
