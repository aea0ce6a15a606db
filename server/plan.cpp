#include "server/plan.hpp"

#include <cstdio>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "server/memory_flags.hpp"
#include "server/serve.hpp"

namespace cogserve {
namespace {

struct PlanOptions {
  EngineConfig engine;
  FormatFlags formats;
  bool json = false;
};

OptionTable make_table(PlanOptions* options) {
  OptionTable table("plan", "[options]",
                    "what a model takes of a device's memory, from its config.json alone");
  table.group("Model");
  add_model_flags(&options->engine, &table);
  options->formats.add_to(&table);
  table.group("Memory");
  add_memory_flags(&options->engine, &table);
  table.group("Output");
  table.add("json", &options->json, "Print one JSON object.");
  return table;
}

struct Unit {
  const char* name;
  double bytes;
};

// For a whole table: megabytes where gigabytes would be zeros.
Unit unit_for(int64_t largest) {
  return largest < 10'000'000'000 ? Unit{"MB", 1e6} : Unit{"GB", 1e9};
}

}  // namespace

std::string plan_table(const MemoryPlan& plan) {
  std::string text;
  const Unit unit = unit_for(plan.total());
  const auto size = [&](int64_t bytes) { return static_cast<double>(bytes) / unit.bytes; };
  for (const auto& [name, bytes] : plan.parts()) {
    absl::StrAppendFormat(&text, "  %-26s %8.2f %s\n", name, size(bytes), unit.name);
  }
  absl::StrAppendFormat(&text, "  %-26s %8.2f %s of %.2f %s: %s\n", "together", size(plan.total()),
                        unit.name, size(plan.budget), unit.name,
                        check_plan(plan).ok() ? "fits" : "does not fit");
  absl::StrAppendFormat(&text, "\n  KV cache: %d tokens, in %d blocks of %d tokens and %.2f MB\n",
                        plan.kv_tokens(), plan.num_blocks, plan.block_size,
                        static_cast<double>(plan.block_bytes) / 1e6);
  const auto tokens = static_cast<double>(plan.kv_tokens());
  absl::StrAppendFormat(&text,
                        "  that is %.1f pictures of %d tokens, or %.1f full contexts of %d\n",
                        tokens / plan.picture_tokens, plan.picture_tokens,
                        tokens / plan.max_model_len, plan.max_model_len);
  return text;
}

std::string plan_json(const MemoryPlan& plan) {
  std::string text = "{";
  for (const auto& [name, bytes] : plan.parts()) {
    const std::string key =
        absl::AsciiStrToLower(absl::StrReplaceAll(name, {{", ", "_"}, {" ", "_"}}));
    absl::StrAppendFormat(&text, "\"%s\": %d, ", key, bytes);
  }
  absl::StrAppendFormat(&text,
                        "\"total\": %d, \"budget\": %d, \"fits\": %s, \"kv_tokens\": %d, "
                        "\"num_blocks\": %d, \"block_size\": %d, \"max_pictures\": %d}\n",
                        plan.total(), plan.budget, check_plan(plan).ok() ? "true" : "false",
                        plan.kv_tokens(), plan.num_blocks, plan.block_size, plan.max_pictures);
  return text;
}

int run_plan(const std::vector<std::string>& arguments) {
  PlanOptions options;
  options.engine.device = "cuda:0";
  OptionTable table = make_table(&options);
  const auto positional = table.parse(arguments);
  if (table.help_wanted()) {
    std::fputs(table.help().c_str(), stdout);
    return 0;
  }
  absl::Status status = positional.status();
  if (status.ok() && !positional->empty()) {
    status =
        absl::InvalidArgumentError(positional->front() + ": plan takes no arguments, only options");
  }
  if (status.ok()) status = check_memory_flags(options.engine);
  if (!status.ok()) {
    std::fprintf(stderr, "cogserve plan: %s\n", std::string(status.message()).c_str());
    return kExitUsage;
  }
  if (options.engine.model_dir.empty()) options.engine.model_dir = default_model_dir();
  options.engine.formats = options.formats.formats();
  const auto plan = plan_memory(options.engine);
  if (!plan.ok()) {
    std::fprintf(stderr, "cogserve plan: %s\n", std::string(plan.status().message()).c_str());
    return kExitStartup;
  }
  if (options.json) {
    std::fputs(plan_json(*plan).c_str(), stdout);
  } else {
    std::printf("%s on %s\n\n%s", options.engine.model_dir.c_str(), options.engine.device.c_str(),
                plan_table(*plan).c_str());
  }
  return check_plan(*plan).ok() ? 0 : kExitStartup;
}

}  // namespace cogserve
