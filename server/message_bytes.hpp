// gRPC's bytes to messages and back.
//
// The chat methods take bytes, so that a request that cannot be parsed is answered like any other
// bad one, and so that gRPC does not keep megabytes of it until the call ends.
#pragma once

#include <grpcpp/grpcpp.h>

#include <utility>

#include "absl/status/statusor.h"
#include "cogserve/v1/cogserve.grpc.pb.h"
#include "engine/base/error.hpp"

namespace cogserve {

// Leaves the bytes empty. INVALID_ARGUMENT / MALFORMED_REQUEST.
inline absl::StatusOr<v1::ChatRequest> take_request(const grpc::ByteBuffer* bytes) {
  // const only for the handler: gRPC owns it, does not read it again, and frees it at the call's
  // end.
  grpc::ByteBuffer taken;
  taken.Swap(const_cast<grpc::ByteBuffer*>(bytes));
  v1::ChatRequest request;
  if (grpc::SerializationTraits<v1::ChatRequest>::Deserialize(&taken, &request).ok()) {
    return request;
  }
  return invalid_argument("MALFORMED_REQUEST", "",
                          "the message is no ChatRequest, or a text in it is not UTF-8");
}

template <typename Message>
grpc::Status write_message(const Message& message, grpc::ByteBuffer* bytes) {
  bytes->Clear();
  bool owned = false;
  return grpc::SerializationTraits<Message>::Serialize(message, bytes, &owned);
}

}  // namespace cogserve
