#include "client/bench/arrivals.hpp"

#include <cmath>

namespace cogserve::client {

Arrivals::Arrivals(double rate, double burstiness, uint64_t seed)
    : rate_(rate), random_(seed), gap_(burstiness, 1.0 / (rate * burstiness)) {}

double Arrivals::next() {
  if (std::isinf(rate_)) return 0.0;
  return time_ += gap_(random_);
}

}  // namespace cogserve::client
