// When the requests of an open-loop load test are due: gaps of a gamma distribution with mean
// 1 / rate and shape `burstiness`. 1 is a Poisson process, below it arrivals come in bursts, above
// it they are more even. The same seed gives the same times. Used by one thread.
#pragma once

#include <cstdint>
#include <random>

namespace cogserve::client {

class Arrivals {
 public:
  // `rate` per second, above 0; infinity: everything is due at once. `burstiness` above 0.
  Arrivals(double rate, double burstiness, uint64_t seed);

  // Seconds from the run's start to the next arrival; never less than the one before.
  double next();

 private:
  double rate_;
  std::mt19937_64 random_;
  std::gamma_distribution<double> gap_;
  double time_ = 0;
};

}  // namespace cogserve::client
