#include "engine/backend/cuda/staging.hpp"

#include "engine/backend/cuda/error.hpp"
#include "engine/backend/cuda/own_memory.hpp"

namespace cogserve::cuda {

Staging::Staging(const Stream* stream)
    : stream_(stream),
      ring_(kStagingSegmentBytes, kStagingSegments),
      host_(allocate_pinned(ring_.bytes())),
      device_(allocate_device(ring_.bytes())) {
  for (int i = 0; i < kStagingSegments; ++i) marks_.push_back(std::make_unique<Event>());
}

std::byte* Staging::take(size_t bytes) {
  const Ring::Place place = ring_.take(bytes);
  if (place.left >= 0) marks_[place.left]->record(*stream_);
  if (place.must_wait) marks_[place.segment]->wait();
  return static_cast<std::byte*>(host_.get()) + place.offset;
}

const std::byte* Staging::send(const Parcel& parcel) {
  const std::span<const std::byte> bytes = parcel.bytes();
  std::byte* const host = take(bytes.size());
  std::byte* const device =
      static_cast<std::byte*>(device_.get()) + (host - static_cast<std::byte*>(host_.get()));
  if (!bytes.empty()) {
    std::memcpy(host, bytes.data(), bytes.size());
    check_cuda(cudaMemcpyAsync(device, host, bytes.size(), cudaMemcpyHostToDevice, stream_->get()),
               "cudaMemcpyAsync");
  }
  return device;
}

void Staging::write(void* to, size_t bytes, const Fill& fill) {
  for (size_t begin = 0; begin < bytes; begin += max_bytes()) {
    const size_t count = std::min(max_bytes(), bytes - begin);
    std::byte* const host = take(count);
    fill(begin, count, host);
    check_cuda(cudaMemcpyAsync(static_cast<std::byte*>(to) + begin, host, count,
                               cudaMemcpyHostToDevice, stream_->get()),
               "cudaMemcpyAsync");
  }
}

}  // namespace cogserve::cuda
