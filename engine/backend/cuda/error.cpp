#include "engine/backend/cuda/error.hpp"

namespace cogserve::cuda {

std::string describe_error(const char* call, cudaError_t error) {
  return std::string(call) + ": " + cudaGetErrorName(error) + " (" + cudaGetErrorString(error) +
         ")";
}

}  // namespace cogserve::cuda
