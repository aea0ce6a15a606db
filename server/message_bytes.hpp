// gRPC's bytes to messages and back.
//
// The chat methods take bytes, so that a request that cannot be parsed is answered like any other
// bad one, and so that gRPC does not keep megabytes of it until the call ends.
#pragma once

#include <google/protobuf/io/coded_stream.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/support/proto_buffer_reader.h>

#include <utility>

#include "absl/status/statusor.h"
#include "cogserve/v1/cogserve.grpc.pb.h"
#include "engine/base/error.hpp"

namespace cogserve {

// Leaves `request` empty. It is const only for the handler: gRPC owns it, does not read it again,
// and frees it at the call's end.
inline grpc::ByteBuffer take_bytes(const grpc::ByteBuffer* request) {
  grpc::ByteBuffer taken;
  taken.Swap(const_cast<grpc::ByteBuffer*>(request));
  return taken;
}

// Groups in groups in unknown fields, which the parser walks one call deeper each.
constexpr int kMaxMessageDepth = 20;

// INVALID_ARGUMENT / MALFORMED_REQUEST.
inline absl::StatusOr<v1::ChatRequest> parse_request(grpc::ByteBuffer* bytes) {
  grpc::ProtoBufferReader reader(bytes);
  google::protobuf::io::CodedInputStream coded(&reader);
  coded.SetRecursionLimit(kMaxMessageDepth);
  v1::ChatRequest request;
  if (reader.status().ok() && request.ParseFromCodedStream(&coded) &&
      coded.ConsumedEntireMessage()) {
    return request;
  }
  return invalid_argument(
      "MALFORMED_REQUEST", "",
      "the message is no ChatRequest, is nested too deep, or a text in it is not "
      "UTF-8");
}

template <typename Message>
grpc::Status write_message(const Message& message, grpc::ByteBuffer* bytes) {
  bytes->Clear();
  bool owned = false;
  return grpc::SerializationTraits<Message>::Serialize(message, bytes, &owned);
}

}  // namespace cogserve
