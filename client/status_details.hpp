// From a gRPC status with google.rpc details to the library's Error.
#pragma once

#include "client/error.hpp"

namespace grpc {
class Status;
}

namespace cogserve::client {

// `status` is not OK. Details that cannot be read are left out.
Error to_error(const grpc::Status& status);

}  // namespace cogserve::client
