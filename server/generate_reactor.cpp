#include "server/generate_reactor.hpp"

#include <utility>

#include "server/message_bytes.hpp"

namespace cogserve {

void GenerateReactor::begin_message() {
  message_.Clear();
  if (std::exchange(named_, true)) return;
  message_.set_request_id(call().request_id());
  message_.set_model(call().model_name());
}

void GenerateReactor::write(v1::Delta* delta) {
  begin_message();
  message_.mutable_delta()->Swap(delta);
  write_message(message_, &bytes_);
  StartWrite(&bytes_);
}

void GenerateReactor::finish(const absl::Status& status, const v1::Final& final) {
  free_place();
  if (!status.ok()) {
    Finish(failure(status));
    return;
  }
  begin_message();
  *message_.mutable_final() = final;
  write_message(message_, &bytes_);
  StartWriteAndFinish(&bytes_, grpc::WriteOptions(), grpc::Status::OK);
}

void GenerateReactor::OnWriteDone(bool ok) { call().on_written(ok); }

}  // namespace cogserve
