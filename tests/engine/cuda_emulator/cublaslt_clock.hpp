// When the emulator's cuBLASLt computes, and how long that takes: no clock of the host's, so that
// the same products are found the fastest every time.
#pragma once

#include "tests/engine/cuda_emulator/cublaslt_product.hpp"
#include "tests/engine/cuda_emulator/streams.hpp"

namespace cogserve::emulator {

void give(const LibraryProduct& product, Stream* stream);

}  // namespace cogserve::emulator
