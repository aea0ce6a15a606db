// `cogserve plan`: what a model takes of a device's memory, from its config alone.
#pragma once

#include <string>
#include <vector>

#include "engine/memory_plan.hpp"

namespace cogserve {

// A line for each part, the sum against the budget, and what fits into the KV cache.
std::string plan_table(const MemoryPlan& plan);
// The same as one JSON object; sizes are bytes.
std::string plan_json(const MemoryPlan& plan);

// `arguments` after the verb. 0 if the model fits, kExitStartup if it does not (the table is
// printed all the same) or cannot be planned, kExitUsage for a wrong flag.
int run_plan(const std::vector<std::string>& arguments);

}  // namespace cogserve
