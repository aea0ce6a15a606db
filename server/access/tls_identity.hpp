// The server's certificate and key, and whom it takes certificates from, out of files that
// `refresh` reads again when they change.
//
// Connections that are up keep what they began with. Files that do not belong together, as while
// they are being replaced, leave the last good ones in force. Thread-safe but for `refresh`; it
// outlives the server that uses it.
#pragma once

#include <grpcpp/security/auth_context.h>
#include <grpcpp/security/server_credentials.h>

#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "server/access/watched_files.hpp"

namespace cogserve {

struct TlsFiles {
  std::string certificate;  // PEM, as all of them; the chain, the server's own first
  std::string key;
  std::string client_authorities;  // empty: clients are not asked for a certificate
  bool client_certificate_required = true;
};

class TlsIdentity {
 public:
  // An error names the file.
  static absl::StatusOr<std::unique_ptr<TlsIdentity>> load(const TlsFiles& files);

  // For one server to listen with, once. TLS 1.2 and later.
  std::shared_ptr<grpc::ServerCredentials> credentials();

  // Takes the files if they have changed; true then. An error, once for each change, leaves the old
  // in force.
  absl::StatusOr<bool> refresh();

  // When the certificate ends: "Nov 27 12:00:00 2027 GMT".
  std::string expiry() const;

  struct Pem {
    std::string certificate;
    std::string key;
    std::string client_authorities;
  };
  // What gRPC asks for at each handshake: the identity, unless it has it already.
  std::optional<Pem> take_new();

 private:
  explicit TlsIdentity(const TlsFiles& files);

  const TlsFiles paths_;
  WatchedFiles files_;        // `refresh` alone
  mutable std::mutex mutex_;  // guards all below
  Pem pem_;
  std::string expiry_;
  bool is_new_ = false;
};

// The names by which a client's certificate may be known: its subject alternative names that are
// DNS names or URIs, or its common name if it has no alternative names.
std::vector<std::string> certificate_names(const grpc::AuthContext& client);

}  // namespace cogserve
