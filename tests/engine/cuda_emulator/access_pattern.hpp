// How well kernels' accesses suit a GPU's memory system, by the published rules for sm_80 and
// later, which know no time: a warp's request to global memory moves whole sectors of 32 bytes; one
// to shared memory passes in groups of lanes that ask for 128 bytes together, and a group takes a
// wavefront for each different word that the worst of 32 banks is asked for.
//
// A warp's request is put together from what its lanes report: the n-th time that each of them is
// at the same place of the code. What lanes do apart from each other, in loops that end at
// different times, may so be counted as one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>

namespace cogserve::emulator {

struct AccessCount {
  uint64_t needed = 0;  // if what is asked for lay side by side
  uint64_t taken = 0;

  double factor() const { return needed == 0 ? 1.0 : static_cast<double>(taken) / needed; }
};

struct AccessPattern {
  AccessCount loads;   // from global memory, in sectors
  AccessCount stores;  // to global memory, in sectors
  AccessCount shared;  // in wavefronts, atomics too
};

// From now on, until patterns are taken.
void start_patterns();
// By the kernel's name.
std::map<std::string, AccessPattern> take_patterns();

// For note_access: one lane's part of a request.
enum class Access : uint8_t;
void note_pattern(const std::byte* at, size_t bytes, Access access, bool shared, const void* code);

}  // namespace cogserve::emulator
