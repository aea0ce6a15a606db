#include "engine/schedule/plan.hpp"

namespace cogserve {

std::vector<Plan> split(const Plan& plan) {
  std::vector<Plan> parts;
  parts.reserve(plan.size());
  for (const ChunkWork& work : plan.chunks) parts.push_back({.vision = {}, .chunks = {work}});
  for (VisionWork work : plan.vision) {
    work.count += work.begin;
    work.begin = 0;
    parts.push_back({.vision = {work}, .chunks = {}});
  }
  return parts;
}

}  // namespace cogserve
