// Command-line options of one verb: flags, environment variables, config file, --help.
//
// A table of typed targets, filled in this order of precedence: command line, environment
// (COGSERVE_ and the flag in capitals: --max-num-seqs is COGSERVE_MAX_NUM_SEQS), the YAML or JSON
// file named by --config (keys are flag names), the target's value before parsing (its default).
// Integers and sizes accept k, K, Ki, MiB, GB...; durations accept ms, s, m, h.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace cogserve {

class OptionTable {
 public:
  using Target = std::function<absl::Status(std::string_view value)>;

  // `verb` and `summary` head the help: "cogserve serve: ...".
  OptionTable(std::string verb, std::string synopsis, std::string summary);

  // Options added from here on are listed under `title`.
  void group(std::string title);

  // `flag` without dashes. A bool is set by --flag and cleared by --no-flag.
  void add(std::string flag, bool* target, std::string help);
  void add(std::string flag, int* target, std::string value_name, std::string help);
  void add(std::string flag, int64_t* target, std::string value_name, std::string help);
  void add(std::string flag, uint64_t* target, std::string value_name, std::string help);
  void add(std::string flag, double* target, std::string value_name, std::string help);
  void add(std::string flag, std::string* target, std::string value_name, std::string help);
  void add(std::string flag, std::chrono::milliseconds* target, std::string value_name,
           std::string help);
  // Repeatable.
  void add(std::string flag, std::vector<std::string>* target, std::string value_name,
           std::string help);
  // One of a closed list; an unknown value's error lists them.
  void add_choice(std::string flag, std::string* target, std::vector<std::string> choices,
                  std::string help);

  // The option added last is not read from the environment: the variable of its name belongs to
  // another verb, where it means something else.
  void without_environment();

  // `arguments` without program and verb. Returns the positional ones. INVALID_ARGUMENT names the
  // flag (and where it came from) and suggests the nearest known one.
  // --help and --help=<word> are reported by `help_wanted`.
  absl::StatusOr<std::vector<std::string>> parse(const std::vector<std::string>& arguments);

  // Whether any source gave this flag a value.
  bool given(std::string_view flag) const;

  bool help_wanted() const;
  // Grouped, with defaults and environment names; only options that contain `help_filter`, if any.
  std::string help() const;

 private:
  struct Option {
    std::string flag;
    std::string group;
    std::string value_name;  // empty for a bool
    std::string help;
    std::string default_text;
    Target set;
    std::function<void()> clear;  // before the first value of a stronger source; lists only
    bool environment = true;
  };
  // One value and where it came from, for errors: "--port", "COGSERVE_PORT", "port in x.yaml".
  struct Assignment {
    const Option* option;
    std::string value;
    std::string source;
  };

  void add_option(Option option);
  const Option* find(std::string_view flag) const;
  absl::Status unknown_option(std::string_view flag, std::string_view source) const;
  absl::StatusOr<std::vector<Assignment>> read_command_line(
      const std::vector<std::string>& arguments, std::vector<std::string>* positional);
  std::vector<Assignment> read_environment() const;
  absl::StatusOr<std::vector<Assignment>> read_config(const std::string& path) const;
  absl::Status apply(const std::vector<Assignment>& assignments);

  const std::string verb_;
  const std::string synopsis_;
  const std::string summary_;
  std::string group_;
  std::string config_path_;
  std::vector<Option> options_;
  std::set<const Option*> given_;
  bool help_wanted_ = false;
  std::string help_filter_;
};

}  // namespace cogserve
