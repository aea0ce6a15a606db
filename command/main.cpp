// The `cogserve` command: one binary, verbs for serving and for asking.
#include <cstdio>
#include <string>
#include <vector>

#include "client/commands.hpp"
#include "command/nearest_word.hpp"
#include "command/quantize.hpp"
#include "server/plan.hpp"
#include "server/serve.hpp"

namespace cogserve {
namespace {

int run_version(const std::vector<std::string>& arguments);
int run_help(const std::vector<std::string>& arguments);

struct Verb {
  const char* name;
  const char* summary;
  int (*run)(const std::vector<std::string>& arguments);
};

constexpr Verb kVerbs[] = {
    {"serve", "serve a model over gRPC", run_serve},
    {"plan", "what a model takes of a device's memory, before it is loaded", run_plan},
    {"chat", "talk with a served model, about a picture or without one", run_chat},
    {"ask", "one or many questions about one picture", run_ask},
    {"bench", "measure a server: cogserve bench serve", run_bench},
    {"quantize", "write a checkpoint in 4 or 8 bits", run_quantize},
    {"health", "ask a server whether it takes calls", run_health},
    {"demo", "questions about drawn pictures, next to the expected answers", run_demo},
    {"version", "print the version", run_version},
    {"help", "print this list", run_help},
};

int run_version(const std::vector<std::string>& /*arguments*/) {
  std::puts("cogserve " COGSERVE_VERSION);
  return 0;
}

int run_help(const std::vector<std::string>& /*arguments*/) {
  std::puts("cogserve: questions about a picture, answered by CogVLM2, over gRPC\n");
  std::puts("usage: cogserve VERB [options]\n");
  for (const Verb& verb : kVerbs) std::printf("  %-8s %s\n", verb.name, verb.summary);
  std::puts("\n`cogserve VERB --help` lists a verb's options, `--help=WORD` those about WORD.");
  return 0;
}

const Verb* find_verb(const std::string& name) {
  for (const Verb& verb : kVerbs) {
    if (name == verb.name) return &verb;
  }
  if (name == "--help" || name == "-h") return find_verb("help");
  if (name == "--version") return find_verb("version");
  return nullptr;
}

int unknown_verb(const std::string& name) {
  std::vector<std::string> names;
  for (const Verb& verb : kVerbs) names.push_back(verb.name);
  const std::string nearest = nearest_word(name, names);
  std::fprintf(stderr, "cogserve: unknown verb \"%s\"%s; `cogserve help` lists them\n",
               name.c_str(), nearest.empty() ? "" : (", did you mean " + nearest + "?").c_str());
  return kExitUsage;
}

int run(int argc, char** argv) {
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  if (arguments.empty()) {
    run_help(arguments);
    return kExitUsage;
  }
  const Verb* verb = find_verb(arguments.front());
  if (verb == nullptr) return unknown_verb(arguments.front());
  return verb->run({arguments.begin() + 1, arguments.end()});
}

}  // namespace
}  // namespace cogserve

int main(int argc, char** argv) { return cogserve::run(argc, argv); }
