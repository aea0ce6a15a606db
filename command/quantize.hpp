// `cogserve quantize SRC DST`: a dense checkpoint becomes a quantised one.
#pragma once

#include <string>
#include <vector>

namespace cogserve {

// `arguments` after the verb. Returns the exit code.
int run_quantize(const std::vector<std::string>& arguments);

}  // namespace cogserve
