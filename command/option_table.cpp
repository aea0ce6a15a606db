#include "command/option_table.hpp"

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <map>
#include <set>
#include <sstream>
#include <utility>

#include "command/config_file.hpp"
#include "command/nearest_word.hpp"
#include "command/option_values.hpp"

namespace cogserve {
namespace {

constexpr size_t kHelpWidth = 100;
constexpr size_t kHelpIndent = 6;

std::string environment_name(std::string_view flag) {
  std::string name = "COGSERVE_";
  for (const char c : flag) {
    name += c == '-' ? '_' : static_cast<char>(c >= 'a' && c <= 'z' ? c - 'a' + 'A' : c);
  }
  return name;
}

std::string lower(std::string_view text) {
  std::string result(text);
  for (char& c : result) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return result;
}

std::string joined(const std::vector<std::string>& words, const char* separator) {
  std::string text;
  for (const std::string& word : words) {
    if (!text.empty()) text += separator;
    text += word;
  }
  return text;
}

// A setter out of one of the parse_ functions.
template <typename T, typename Parse>
OptionTable::Target setter(T* target, Parse parse) {
  return [target, parse](std::string_view text) -> absl::Status {
    auto value = parse(text);
    if (!value.ok()) return value.status();
    *target = *value;
    return absl::OkStatus();
  };
}

// Words of `text`, wrapped and indented.
void write_wrapped(const std::string& text, std::ostringstream* out) {
  std::istringstream words(text);
  std::string word;
  size_t column = 0;
  while (words >> word) {
    if (column == 0 || column + 1 + word.size() > kHelpWidth) {
      if (column != 0) *out << '\n';
      *out << std::string(kHelpIndent, ' ') << word;
      column = kHelpIndent + word.size();
    } else {
      *out << ' ' << word;
      column += 1 + word.size();
    }
  }
  *out << '\n';
}

std::string number_text(double value) {
  std::ostringstream text;
  text << value;
  return text.str();
}

}  // namespace

OptionTable::OptionTable(std::string verb, std::string synopsis, std::string summary)
    : verb_(std::move(verb)), synopsis_(std::move(synopsis)), summary_(std::move(summary)) {
  group("General");
  add("config", &config_path_, "FILE",
      "YAML or JSON file of flag names and values; environment and command line go before it.");
}

void OptionTable::group(std::string title) { group_ = std::move(title); }

void OptionTable::add_option(Option option) {
  option.group = group_;
  options_.push_back(std::move(option));
}

void OptionTable::add(std::string flag, bool* target, std::string help) {
  add_option({std::move(flag),
              {},
              {},
              std::move(help),
              *target ? "true" : "false",
              setter(target, parse_bool),
              nullptr});
}

void OptionTable::add(std::string flag, int* target, std::string value_name, std::string help) {
  const auto parse = [](std::string_view text) -> absl::StatusOr<int> {
    const absl::StatusOr<int64_t> value = parse_integer(text);
    if (!value.ok()) return value.status();
    if (*value < std::numeric_limits<int>::min() || *value > std::numeric_limits<int>::max()) {
      return absl::InvalidArgumentError("does not fit in 32 bits: " + std::string(text));
    }
    return static_cast<int>(*value);
  };
  add_option({std::move(flag),
              {},
              std::move(value_name),
              std::move(help),
              std::to_string(*target),
              setter(target, parse),
              nullptr});
}

void OptionTable::add(std::string flag, int64_t* target, std::string value_name, std::string help) {
  add_option({std::move(flag),
              {},
              std::move(value_name),
              std::move(help),
              std::to_string(*target),
              setter(target, parse_integer),
              nullptr});
}

void OptionTable::add(std::string flag, uint64_t* target, std::string value_name,
                      std::string help) {
  add_option({std::move(flag),
              {},
              std::move(value_name),
              std::move(help),
              std::to_string(*target),
              setter(target, parse_unsigned),
              nullptr});
}

void OptionTable::add(std::string flag, double* target, std::string value_name, std::string help) {
  add_option({std::move(flag),
              {},
              std::move(value_name),
              std::move(help),
              number_text(*target),
              setter(target, parse_number),
              nullptr});
}

void OptionTable::add(std::string flag, std::string* target, std::string value_name,
                      std::string help) {
  const auto set = [target](std::string_view text) {
    *target = std::string(text);
    return absl::OkStatus();
  };
  add_option({std::move(flag), {}, std::move(value_name), std::move(help), *target, set, nullptr});
}

void OptionTable::add(std::string flag, std::chrono::milliseconds* target, std::string value_name,
                      std::string help) {
  add_option({std::move(flag),
              {},
              std::move(value_name),
              std::move(help),
              duration_text(*target),
              setter(target, parse_duration),
              nullptr});
}

void OptionTable::add(std::string flag, std::vector<std::string>* target, std::string value_name,
                      std::string help) {
  const auto set = [target](std::string_view text) {
    target->emplace_back(text);
    return absl::OkStatus();
  };
  add_option({std::move(flag),
              {},
              std::move(value_name),
              std::move(help) + " Repeatable.",
              joined(*target, ", "),
              set,
              [target] { target->clear(); }});
}

void OptionTable::add_choice(std::string flag, std::string* target,
                             std::vector<std::string> choices, std::string help) {
  const std::string list = joined(choices, "|");
  const auto set = [target, choices = std::move(choices)](std::string_view text) -> absl::Status {
    if (std::find(choices.begin(), choices.end(), text) == choices.end()) {
      return absl::InvalidArgumentError("wants one of " + joined(choices, ", ") + ", got \"" +
                                        std::string(text) + "\"");
    }
    *target = std::string(text);
    return absl::OkStatus();
  };
  add_option({std::move(flag), {}, list, std::move(help), *target, set, nullptr});
}

void OptionTable::without_environment() { options_.back().environment = false; }

const OptionTable::Option* OptionTable::find(std::string_view flag) const {
  for (const Option& option : options_) {
    if (option.flag == flag) return &option;
  }
  return nullptr;
}

absl::Status OptionTable::unknown_option(std::string_view flag, std::string_view source) const {
  std::vector<std::string> known{"help"};
  for (const Option& option : options_) known.push_back(option.flag);
  const std::string nearest = nearest_word(flag, known);
  std::string message = std::string(source) + ": unknown option";
  if (!nearest.empty()) message += "; did you mean --" + nearest + "?";
  return absl::InvalidArgumentError(message);
}

absl::StatusOr<std::vector<OptionTable::Assignment>> OptionTable::read_command_line(
    const std::vector<std::string>& arguments, std::vector<std::string>* positional) {
  std::vector<Assignment> assignments;
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::string& argument = arguments[i];
    if (argument == "--") {
      positional->insert(positional->end(), arguments.begin() + static_cast<ptrdiff_t>(i) + 1,
                         arguments.end());
      break;
    }
    if (argument == "-h") {
      help_wanted_ = true;
      continue;
    }
    if (argument.rfind("--", 0) != 0) {
      if (argument.size() > 1 && argument[0] == '-') return unknown_option(argument, argument);
      positional->push_back(argument);
      continue;
    }
    const size_t equals = argument.find('=');
    const bool has_value = equals != std::string::npos;
    const std::string flag = argument.substr(2, has_value ? equals - 2 : std::string::npos);
    std::string value = has_value ? argument.substr(equals + 1) : std::string();
    const std::string source = "--" + flag;
    if (flag == "help") {
      help_wanted_ = true;
      help_filter_ = value;
      continue;
    }
    const Option* option = find(flag);
    const Option* negated = flag.rfind("no-", 0) == 0 ? find(flag.substr(3)) : nullptr;
    if (option == nullptr && negated != nullptr && negated->value_name.empty() && !has_value) {
      assignments.push_back({negated, "false", source});
      continue;
    }
    if (option == nullptr) return unknown_option(flag, source);
    if (!has_value && option->value_name.empty()) value = "true";
    if (!has_value && !option->value_name.empty()) {
      if (i + 1 == arguments.size() || arguments[i + 1].rfind("--", 0) == 0) {
        return absl::InvalidArgumentError(source + ": needs a value (" + option->value_name + ")");
      }
      value = arguments[++i];
    }
    assignments.push_back({option, value, source});
  }
  return assignments;
}

std::vector<OptionTable::Assignment> OptionTable::read_environment() const {
  std::vector<Assignment> assignments;
  for (const Option& option : options_) {
    if (!option.environment) continue;
    const std::string name = environment_name(option.flag);
    const char* text = std::getenv(name.c_str());
    if (text == nullptr) continue;
    // An empty variable is an empty value of a list, too, not the absence of one.
    if (option.clear == nullptr || *text == '\0') {
      assignments.push_back({&option, text, name});
      continue;
    }
    std::istringstream list(text);
    for (std::string value; std::getline(list, value, ',');) {
      assignments.push_back({&option, value, name});
    }
  }
  return assignments;
}

absl::StatusOr<std::vector<OptionTable::Assignment>> OptionTable::read_config(
    const std::string& path) const {
  const absl::StatusOr<std::vector<ConfigEntry>> entries = read_config_file(path);
  if (!entries.ok()) return entries.status();
  std::vector<Assignment> assignments;
  for (const auto& [key, values] : *entries) {
    const std::string source = key + " in " + path;
    const Option* option = key == "config" ? nullptr : find(key);
    if (option == nullptr) return unknown_option(key, source);
    if (option->clear == nullptr && values.size() != 1) {
      return absl::InvalidArgumentError(source + ": wants one value, got " +
                                        std::to_string(values.size()));
    }
    if (values.empty()) return absl::InvalidArgumentError(source + ": wants at least one value");
    for (const std::string& value : values) assignments.push_back({option, value, source});
  }
  return assignments;
}

absl::Status OptionTable::apply(const std::vector<Assignment>& assignments) {
  std::set<const Option*> cleared;
  for (const Assignment& assignment : assignments) {
    const Option& option = *assignment.option;
    if (option.clear != nullptr && cleared.insert(&option).second) option.clear();
    given_.insert(&option);
    const absl::Status status = option.set(assignment.value);
    if (!status.ok()) {
      return absl::InvalidArgumentError(assignment.source + ": " + std::string(status.message()));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::string>> OptionTable::parse(
    const std::vector<std::string>& arguments) {
  std::vector<std::string> positional;
  const auto command_line = read_command_line(arguments, &positional);
  if (help_wanted_) return positional;
  if (!command_line.ok()) return command_line.status();
  const std::vector<Assignment> environment = read_environment();

  // The file is the weakest source, but the others say which file it is.
  for (const auto* source : {&environment, &*command_line}) {
    for (const Assignment& assignment : *source) {
      if (assignment.option->flag == "config") config_path_ = assignment.value;
    }
  }
  if (!config_path_.empty()) {
    const auto config = read_config(config_path_);
    if (!config.ok()) return config.status();
    if (absl::Status status = apply(*config); !status.ok()) return status;
  }
  if (absl::Status status = apply(environment); !status.ok()) return status;
  if (absl::Status status = apply(*command_line); !status.ok()) return status;
  return positional;
}

bool OptionTable::given(std::string_view flag) const { return given_.count(find(flag)) > 0; }

bool OptionTable::help_wanted() const { return help_wanted_; }

std::string OptionTable::help() const {
  std::ostringstream out;
  out << "cogserve " << verb_ << ": " << summary_ << "\n\nusage: cogserve " << verb_;
  if (!synopsis_.empty()) out << ' ' << synopsis_;
  out << '\n';
  const std::string filter = lower(help_filter_);
  std::map<std::string, std::ostringstream> sections;
  std::vector<std::string> titles;  // in the order of their first option
  for (const Option& option : options_) {
    if (lower(option.flag + ' ' + option.help).find(filter) == std::string::npos) continue;
    if (sections.find(option.group) == sections.end()) titles.push_back(option.group);
    std::ostringstream& section = sections[option.group];
    section << "  --" << (option.value_name.empty() ? "[no-]" : "") << option.flag;
    if (!option.value_name.empty()) section << ' ' << option.value_name;
    section << '\n';
    std::string text = option.help;
    if (!option.default_text.empty()) text += " Default: " + option.default_text + ".";
    if (option.environment) text += " [" + environment_name(option.flag) + "]";
    write_wrapped(text, &section);
  }
  // "General" was opened first and reads best last.
  if (!titles.empty() && titles.front() == options_.front().group) {
    std::rotate(titles.begin(), titles.begin() + 1, titles.end());
  }
  for (const std::string& title : titles) out << '\n' << title << ":\n" << sections[title].str();
  if (titles.empty()) out << "\nno option contains \"" << help_filter_ << "\"\n";
  return out.str();
}

}  // namespace cogserve
