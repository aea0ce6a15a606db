// What this machine can do at best, measured in the same run as what we make of it.
#pragma once

#include <algorithm>
#include <chrono>
#include <limits>

#include "engine/backend/cpu/thread_pool.hpp"

namespace cogserve::bench {

// Bytes a second that all threads of the pool together read from memory (256 MiB, far beyond any
// cache, on huge pages where there are any, each byte once); best of `tries`.
double read_bandwidth(cpu::ThreadPool& pool, int tries);

// Bytes a second that all threads read of memory that is given, once: whole MiB of it, 64-byte
// aligned.
double read_rate(cpu::ThreadPool& pool, const void* memory, size_t bytes);

// FLOP a second of independent f32 fused multiply-adds in registers, all threads; best of `tries`.
double fma_peak(cpu::ThreadPool& pool, int tries);

// Wall seconds of the fastest of `tries` calls: other work on the machine can only add to them.
template <typename Function>
double best_seconds(int tries, const Function& function) {
  double best = std::numeric_limits<double>::infinity();
  for (int i = 0; i < tries; ++i) {
    const auto start = std::chrono::steady_clock::now();
    function();
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    best = std::min(best, took.count());
  }
  return best;
}

}  // namespace cogserve::bench
