#include "engine/backend/cpu/workspace.hpp"

#include <cstdlib>
#include <new>

#include "engine/backend/cpu/memory.hpp"

namespace cogserve::cpu {

void Workspace::Free::operator()(float* memory) const { std::free(memory); }

float* Workspace::Block::grow(size_t wanted) {
  if (wanted <= floats) return memory.get();
  floats = 0;
  memory.reset(static_cast<float*>(allocate_memory(wanted * sizeof(float))));
  if (memory == nullptr) throw std::bad_alloc();
  floats = wanted;
  return memory.get();
}

}  // namespace cogserve::cpu
