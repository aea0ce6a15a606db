#include "tests/engine/cuda_emulator/access_pattern.hpp"

#include <algorithm>
#include <array>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "tests/engine/cuda_emulator/accesses.hpp"

namespace cogserve::emulator {
namespace {

constexpr size_t kWarpSize = 32;
constexpr size_t kSectorBytes = 32;
constexpr size_t kWordBytes = 4;
constexpr size_t kBanks = 32;
constexpr size_t kWavefrontBytes = kBanks * kWordBytes;

struct Request {
  std::array<uintptr_t, kWarpSize> address{};  // 0: the lane asks for nothing
  size_t bytes = 0;
  Access access = Access::kRead;
  bool shared = false;
};

// A place of the code, by a thread's number: how often it was there.
using ThreadPlace = std::pair<uint32_t, const void*>;
// The same by a warp's number, and for which time its lanes are there.
using WarpPlace = std::tuple<uint32_t, const void*, uint32_t>;

// The different units of `unit` bytes that [address, address + bytes) of some lanes lies in.
std::vector<uintptr_t> units_of(const Request& request, size_t begin, size_t end, size_t unit) {
  std::vector<uintptr_t> units;
  for (size_t lane = begin; lane < end; ++lane) {
    const uintptr_t address = request.address[lane];
    if (address == 0) continue;
    for (uintptr_t at = address / unit; at <= (address + request.bytes - 1) / unit; ++at) {
      units.push_back(at);
    }
  }
  std::sort(units.begin(), units.end());
  units.erase(std::unique(units.begin(), units.end()), units.end());
  return units;
}

uint64_t ceil_div(uint64_t a, uint64_t b) { return (a + b - 1) / b; }

void count_sectors(const Request& request, AccessCount* count) {
  const uint64_t bytes = units_of(request, 0, kWarpSize, 1).size();
  count->needed += ceil_div(bytes, kSectorBytes);
  count->taken += units_of(request, 0, kWarpSize, kSectorBytes).size();
}

void count_wavefronts(const Request& request, AccessCount* count) {
  const size_t lanes = std::min(kWarpSize, kWavefrontBytes / std::max(request.bytes, kWordBytes));
  for (size_t begin = 0; begin < kWarpSize; begin += lanes) {
    const std::vector<uintptr_t> words = units_of(request, begin, begin + lanes, kWordBytes);
    std::array<uint64_t, kBanks> wanted{};
    for (const uintptr_t word : words) ++wanted[word % kBanks];
    count->needed += ceil_div(words.size(), kBanks);
    count->taken += *std::max_element(wanted.begin(), wanted.end());
  }
}

class Recorder {
 public:
  void note(const std::byte* at, size_t bytes, Access access, bool shared, const void* code) {
    const RunningThread& thread = running_thread();
    if (thread.accessor.block != block_) finish_block();
    block_ = thread.accessor.block;
    kernel_ = thread.kernel;
    const uint32_t number = thread.accessor.thread;
    const uint32_t time = times_[{number, code}]++;
    Request& request = requests_[{static_cast<uint32_t>(number / kWarpSize), code, time}];
    request.address[number % kWarpSize] = reinterpret_cast<uintptr_t>(at);
    request.bytes = std::max(request.bytes, bytes);
    request.access = access;
    request.shared = shared;
  }

  std::map<std::string, AccessPattern> take() {
    finish_block();
    return std::exchange(patterns_, {});
  }

 private:
  void finish_block() {
    for (const auto& [place, request] : requests_) {
      AccessPattern& pattern = patterns_[kernel_];
      if (request.shared) {
        count_wavefronts(request, &pattern.shared);
      } else {
        count_sectors(request, request.access == Access::kRead ? &pattern.loads : &pattern.stores);
      }
    }
    requests_.clear();
    times_.clear();
  }

  uint32_t block_ = 0;
  std::string kernel_;
  absl::flat_hash_map<ThreadPlace, uint32_t> times_;
  absl::flat_hash_map<WarpPlace, Request> requests_;
  std::map<std::string, AccessPattern> patterns_;
};

bool recording = false;
Recorder& recorder() {
  static Recorder recorder;
  return recorder;
}

}  // namespace

void start_patterns() { recording = true; }

std::map<std::string, AccessPattern> take_patterns() {
  recording = false;
  return recorder().take();
}

void note_pattern(const std::byte* at, size_t bytes, Access access, bool shared, const void* code) {
  if (recording && code != nullptr) recorder().note(at, bytes, access, shared, code);
}

}  // namespace cogserve::emulator
