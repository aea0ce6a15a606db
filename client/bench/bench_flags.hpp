// The flags of `bench serve`, checked and turned into the parts of a load test. Names are those of
// `vllm bench serve` where it has them.
#pragma once

#include <chrono>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "client/bench/load_driver.hpp"
#include "client/bench/statistics.hpp"
#include "client/bench/workload.hpp"
#include "client/commands/connection_flags.hpp"
#include "client/commands/request_flags.hpp"
#include "command/option_table.hpp"

namespace cogserve::client {

struct BenchFlags {
  std::string workload;
  std::string dataset_name = "random-mm";
  std::string dataset_path;
  int random_input_len = 0;
  int random_output_len = 0;
  int questions_per_image = 0;
  int image_width = 0;
  int image_height = 0;
  std::string image_format = "jpeg";
  std::string image_content = "gradient";

  int64_t num_prompts = 0;
  int64_t num_warmups = -1;
  int max_concurrency = 0;
  double request_rate = std::numeric_limits<double>::infinity();
  double burstiness = 1.0;
  std::chrono::milliseconds duration{0};
  std::chrono::milliseconds think_time{0};
  double cancel_rate = 0;
  int connections = 0;
  uint64_t seed = 0;
  std::string model;
  std::string prompt_template = "default";
  double temperature = 0;
  bool ignore_eos = true;

  std::string goodput;
  std::string percentile_metrics = "ttft,tpot,itl,e2el";
  std::string metric_percentiles = "50,90,99";
  bool save_result = false;
  bool save_detailed = false;
  std::string result_dir = ".";
  std::string result_filename;
  std::string label = "cogserve";
  ConnectionFlags connection;

  // Out of the text flags above, by check().
  Goodput limits;
  std::vector<std::string> metrics;
  std::vector<double> percents;

  // `this` must outlive the table.
  void add_to(OptionTable* table);

  // Ranges and combinations; `positional` may hold further pairs of --goodput. The error names the
  // flag.
  std::optional<Error> check(const std::vector<std::string>& positional);

  // The workload for a model whose tokenizer makes `tokens_per_word`.
  Result<Workload::Options> workload_options(const ModelInfo& model_info,
                                             double tokens_per_word) const;

  // Of the measured run.
  LoadOptions load_options() const;

  // How many sessions the measured run has; 0: as many as fit its duration.
  uint64_t sessions() const;
  uint64_t warmups() const;
  // The workload's name, whichever flag it came from.
  const std::string& workload_name() const;

 private:
  void add_workload_flags(OptionTable* table);
  void add_load_flags(OptionTable* table);
  void add_result_flags(OptionTable* table);
  std::optional<Error> check_workload_flags() const;
  std::optional<Error> check_load_flags() const;
  std::optional<Error> read_result_flags();
};

}  // namespace cogserve::client
