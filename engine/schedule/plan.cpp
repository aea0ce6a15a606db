#include "engine/schedule/plan.hpp"

#include <algorithm>

namespace cogserve {

bool can_advance(const Plan& plan) {
  return plan.vision.empty() && std::ranges::none_of(plan.chunks, [](const ChunkWork& work) {
           return penalises(work.sequence->request.sampling);
         });
}

std::vector<Plan> split(const Plan& plan) {
  std::vector<Plan> parts;
  parts.reserve(plan.size());
  for (const ChunkWork& work : plan.chunks)
    parts.push_back({.vision = {}, .chunks = {work}, .advanced = false});
  for (VisionWork work : plan.vision) {
    work.count += work.begin;
    work.begin = 0;
    parts.push_back({.vision = {work}, .chunks = {}, .advanced = false});
  }
  return parts;
}

}  // namespace cogserve
