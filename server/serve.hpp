// `cogserve serve`: from flags to a serving process, and back to nothing on SIGTERM.
#pragma once

#include <string>
#include <vector>

namespace cogserve {

// Exit codes, after sysexits.h; 0: drained on a signal.
inline constexpr int kExitUsage = 64;         // a flag, its value, or an address left unprotected
inline constexpr int kExitStuck = 70;         // shutting down took longer than it may
inline constexpr int kExitEngineFailed = 76;  // the engine cannot go on; start again
inline constexpr int kExitStartup = 78;       // model, tokenizer, memory or port

// `arguments` after the verb. Blocks until the server has stopped.
int run_serve(const std::vector<std::string>& arguments);

}  // namespace cogserve
