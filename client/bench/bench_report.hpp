// The result of a load test as JSON, with the keys of `vllm bench serve`, and as a table.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "client/bench/bench_flags.hpp"
#include "client/bench/load_driver.hpp"
#include "client/bench/statistics.hpp"
#include "client/types.hpp"

namespace cogserve::client {

// `figures` are those of `run`, whose records are written where --save-detailed. `date` as
// "20261122-210000".
nlohmann::ordered_json result_json(const BenchFlags& flags, const ModelInfo& model,
                                   const Figures& figures, const LoadRun& run,
                                   const std::string& date);

std::string result_table(const BenchFlags& flags, const ModelInfo& model, const Figures& figures);

// Where --result-filename does not say.
std::string default_filename(const BenchFlags& flags, const ModelInfo& model,
                             const std::string& date);

}  // namespace cogserve::client
