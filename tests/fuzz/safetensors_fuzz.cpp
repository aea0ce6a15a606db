// The safetensors header reader on arbitrary bytes: it refuses, or it returns tensors that cover
// the file exactly.

#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "engine/model/safetensors.hpp"

namespace {

void check_entries(const std::vector<cogserve::SafetensorsEntry>& entries, size_t file_size) {
  size_t end = file_size;
  for (auto entry = entries.rbegin(); entry != entries.rend(); ++entry) {
    size_t bytes = cogserve::type_size(entry->type);
    for (const int64_t dim : entry->shape) bytes *= static_cast<size_t>(dim);
    if (bytes != entry->bytes || entry->offset + entry->bytes != end) std::abort();
    end = entry->offset;
  }
}

void read(const std::vector<std::byte>& file) {
  const auto entries = cogserve::read_safetensors_header(file, "fuzz.safetensors");
  if (entries.ok()) {
    check_entries(*entries, file.size());
  } else if (entries.status().message().empty()) {
    std::abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto* const bytes = reinterpret_cast<const std::byte*>(data);
  const std::vector<std::byte> raw(bytes, bytes + size);
  read(raw);

  // The same bytes as the header itself: past the length, where the interesting code is. The first
  // two say how many zero bytes of tensors follow.
  if (size < 2) return 0;
  const size_t data_bytes = data[0] | static_cast<size_t>(data[1]) << 8;
  const size_t header_bytes = size - 2;
  std::vector<std::byte> file(8 + header_bytes + data_bytes);
  for (size_t i = 0; i < 8; ++i) file[i] = static_cast<std::byte>(header_bytes >> (8 * i));
  for (size_t i = 0; i < header_bytes; ++i) file[8 + i] = bytes[2 + i];
  read(file);
  return 0;
}
