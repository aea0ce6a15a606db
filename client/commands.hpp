// The client's verbs of the `cogserve` command. Each takes the arguments after its verb, writes
// answers to stdout and everything else to stderr, and returns the process's exit code:
//   0        success
//   1        a local failure (a file that cannot be read), or the verb's own "no"
//   2        wrong usage
//   64 + n   the call failed with gRPC status n (78: UNAVAILABLE), as grpcurl does
#pragma once

#include <string>
#include <vector>

namespace cogserve {

// Interactive conversation; questions are read from stdin, a line each.
int run_chat(const std::vector<std::string>& arguments);

// One or many questions about one picture.
int run_ask(const std::vector<std::string>& arguments);

// Load generator; the first argument is "serve".
int run_bench(const std::vector<std::string>& arguments);

// 0 when SERVING, 1 when NOT_SERVING.
int run_health(const std::vector<std::string>& arguments);

// Questions about drawn pictures, the answers beside the expected ones; 1 if a call failed.
int run_demo(const std::vector<std::string>& arguments);

}  // namespace cogserve
