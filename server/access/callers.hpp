// Who may call: keys, certificates, what each caller may take, and how long those who guess wait.
//
// One for a server. Where neither keys nor client certificates are asked for everyone may call,
// under no name and without quota. Thread-safe; time is passed in.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/access/api_keys.hpp"
#include "server/access/caller_quota.hpp"
#include "server/access/peer_counter.hpp"

namespace cogserve {

struct AccessOptions {
  std::vector<std::string> api_keys;
  std::string api_key_file;  // empty: none
  // Whether a client's certificate does instead of a key, where not all must have one.
  bool certificate_suffices = false;
  // A client's certificate must have one of these; empty: any that TLS takes will do.
  std::vector<std::string> allowed_names;
  QuotaLimits quota;  // of each caller that has a name

  bool has_keys() const { return !api_keys.empty() || !api_key_file.empty(); }
};

// What a call brings to say who makes it.
struct Credentials {
  std::string peer;                        // "ipv4:127.0.0.1:4711"
  std::vector<std::string> authorization;  // the values of that metadata
  // The name in a certificate that TLS has verified; may be empty.
  std::optional<std::string> certificate;
  std::vector<std::string> certificate_names = {};  // what `allowed_names` are looked for in
};

// What the engine tells callers apart by, which knows no names; 0 for the caller without one.
uint64_t caller_number(const std::string& name);

class Callers {
 public:
  // Refusals that a host may earn in a minute before each further one takes `kPenalty`.
  static constexpr int kMaxRefusals = 10;
  static constexpr std::chrono::seconds kRefusalWindow{60};
  static constexpr std::chrono::milliseconds kPenalty{1000};

  static absl::StatusOr<std::unique_ptr<Callers>> load(const AccessOptions& options);

  // The caller's name, empty where nobody is asked for one. UNAUTHENTICATED, in the same words
  // whatever is wrong, or PERMISSION_DENIED CERTIFICATE_NOT_ALLOWED.
  absl::StatusOr<std::string> identify(const Credentials& credentials, Clock::time_point now);

  // How long to keep a refusal of `identify` to oneself.
  std::chrono::milliseconds penalty(const std::string& peer, Clock::time_point now) const;

  // A place for a call of that caller.
  absl::StatusOr<CallerQuota::Place> admit(const std::string& name, Clock::time_point now);

  // As ApiKeys::refresh.
  absl::StatusOr<bool> refresh() { return keys_->refresh(); }

 private:
  Callers(std::unique_ptr<ApiKeys> keys, const AccessOptions& options);

  // The caller's name by its certificate; nothing if it has none, or one that is not allowed.
  std::optional<std::string> certificate_owner(const Credentials& credentials) const;
  // Counts it.
  absl::Status refuse(const Credentials& credentials, absl::Status why, Clock::time_point now);

  const std::unique_ptr<ApiKeys> keys_;
  const std::vector<std::string> allowed_names_;
  const bool certificate_suffices_;
  const bool allowed_name_required_;
  PeerCounter refusals_;
  CallerQuota quota_;
};

}  // namespace cogserve
