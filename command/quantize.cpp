#include "command/quantize.hpp"

#include <cstdio>

#include "command/option_table.hpp"
#include "engine/quantize_checkpoint.hpp"
#include "server/memory_flags.hpp"
#include "server/progress_line.hpp"
#include "server/serve.hpp"

namespace cogserve {
namespace {

struct Flags {
  Flags()
      : table(
            "quantize", "SRC DST [options]",
            "write the checkpoint in directory SRC to DST, quantised; run again to go on after an "
            "interruption") {
    formats.add_to(&table);
    table.add("threads", &threads, "N", "Threads that work; 0: one for each core.");
  }

  OptionTable table;
  FormatFlags formats = {.quantization = "int4"};
  int threads = 0;
};

int fail(int code, const absl::Status& status) {
  std::fprintf(stderr, "cogserve quantize: %s\n", std::string(status.message()).c_str());
  return code;
}

void print_report(const QuantizeReport& report) {
  std::printf("%-72s %-6s %14s\n", "matrix", "format", "relative error");
  for (const QuantizedTensor& tensor : report.tensors) {
    std::printf("%-72s %-6s %13.3f%%\n", tensor.name.c_str(),
                std::string(format_name(tensor.format)).c_str(), 100 * tensor.relative_error);
  }
  for (const std::string& replaced : report.shards_replaced) {
    std::printf("written anew: %s\n", replaced.c_str());
  }
  std::printf("%.1f MB became %.1f MB; files: %d, kept from an earlier run: %d\n",
              static_cast<double>(report.bytes_before) / 1e6,
              static_cast<double>(report.bytes_after) / 1e6, report.shards, report.shards_kept);
}

}  // namespace

int run_quantize(const std::vector<std::string>& arguments) {
  Flags flags;
  const auto positional = flags.table.parse(arguments);
  if (flags.table.help_wanted()) {
    std::fputs(flags.table.help().c_str(), stdout);
    return 0;
  }
  absl::Status status = positional.status();
  if (status.ok() && positional->size() != 2) {
    status = absl::InvalidArgumentError("wants two directories, SRC and DST, got " +
                                        std::to_string(positional->size()) + " arguments");
  }
  if (status.ok() && flags.threads < 0) {
    status = absl::InvalidArgumentError("--threads: wants 0 or more, got " +
                                        std::to_string(flags.threads));
  }
  QuantizeOptions options;
  options.formats = flags.formats.formats();
  if (status.ok() && options.formats == WeightFormats{}) {
    status = absl::InvalidArgumentError("with these options nothing would be quantised");
  }
  if (!status.ok()) return fail(kExitUsage, status);
  options.source = positional->at(0);
  options.destination = positional->at(1);
  options.threads = flags.threads;
  absl::StatusOr<QuantizeReport> report;
  {
    ProgressLine progress("quantising " + options.source);
    report = quantize_checkpoint(options,
                                 [&](int64_t done, int64_t total) { progress.show(done, total); });
  }
  if (!report.ok()) return fail(kExitStartup, report.status());
  print_report(*report);
  return 0;
}

}  // namespace cogserve
