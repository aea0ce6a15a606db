// What one step computes: data between the scheduler, which makes it, and the runner.
#pragma once

#include <cstddef>
#include <vector>

#include "engine/schedule/sequence.hpp"

namespace cogserve {

// Tokens [begin, begin + count) of a sequence are computed in this step. `samples`: the last of
// them is its newest token, so a next token is sampled.
struct ChunkWork {
  Sequence* sequence = nullptr;
  int begin = 0;
  int count = 0;
  bool samples = false;
};

// Layers [begin, begin + count) of the vision tower run for this sequence's picture. At most one
// picture is in the tower at a time.
struct VisionWork {
  Sequence* sequence = nullptr;
  int begin = 0;
  int count = 0;
  bool last = false;
};

struct Plan {
  std::vector<VisionWork> vision;  // none or one
  std::vector<ChunkWork> chunks;   // decode rows first
  bool advanced = false;           // see Scheduler::advance
  Clock::time_point made = {};

  size_t size() const { return vision.size() + chunks.size(); }
  bool empty() const { return size() == 0; }
};

// Whether the next step can be planned before the tokens of this one are known: no picture is under
// way, and no draw will look at ids that are not known.
bool can_advance(const Plan& plan);

// A plan for each piece of work of `plan`, whose run failed and left nothing that counts: cache
// slots are written again, and a picture starts again from the tower's first layer.
std::vector<Plan> split(const Plan& plan);

}  // namespace cogserve
