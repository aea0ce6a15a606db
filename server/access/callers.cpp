#include "server/access/callers.hpp"

#include <algorithm>
#include <functional>
#include <utility>

#include "absl/strings/match.h"
#include "engine/base/error.hpp"

namespace cogserve {
namespace {

constexpr std::string_view kScheme = "bearer ";

// The key of "Bearer KEY"; empty for anything else.
std::string_view bearer_key(const std::vector<std::string>& authorization) {
  if (authorization.size() != 1) return {};  // of two it is not clear which one counts
  const std::string_view value = authorization.front();
  if (!absl::StartsWithIgnoreCase({value.data(), value.size()}, {kScheme.data(), kScheme.size()})) {
    return {};
  }
  return value.substr(kScheme.size());
}

// A host's connections count together: "ipv4:10.0.0.1:4711" is "ipv4:10.0.0.1".
std::string host_of(const std::string& peer) { return peer.substr(0, peer.rfind(':')); }

}  // namespace

uint64_t caller_number(const std::string& name) {
  return name.empty() ? 0 : std::max<uint64_t>(std::hash<std::string>()(name), 1);
}

Callers::Callers(std::unique_ptr<ApiKeys> keys, const AccessOptions& options)
    : keys_(std::move(keys)),
      allowed_names_(options.allowed_names),
      certificate_suffices_(options.certificate_suffices || keys_->empty()),
      allowed_name_required_(!allowed_names_.empty() && !options.certificate_suffices),
      refusals_(kMaxRefusals, kRefusalWindow),
      quota_(options.quota) {}

absl::StatusOr<std::unique_ptr<Callers>> Callers::load(const AccessOptions& options) {
  absl::StatusOr<std::unique_ptr<ApiKeys>> keys =
      ApiKeys::load(options.api_keys, options.api_key_file);
  if (!keys.ok()) return keys.status();
  return std::unique_ptr<Callers>(new Callers(*std::move(keys), options));
}

absl::StatusOr<std::string> Callers::identify(const Credentials& credentials,
                                              Clock::time_point now) {
  const std::optional<std::string> certificate = certificate_owner(credentials);
  if (allowed_name_required_ && !certificate.has_value()) {
    return refuse(credentials,
                  make_error(absl::StatusCode::kPermissionDenied, "CERTIFICATE_NOT_ALLOWED", "",
                             "the client's certificate has no name that may call here"),
                  now);
  }
  if (certificate.has_value() && certificate_suffices_) return *certificate;
  if (keys_->empty()) return std::string();
  if (const std::string_view key = bearer_key(credentials.authorization); !key.empty()) {
    if (auto owner = keys_->owner_of(key); owner.has_value()) return *std::move(owner);
  }
  return refuse(
      credentials,
      make_error(absl::StatusCode::kUnauthenticated, "UNAUTHENTICATED", "",
                 "a key of this server is wanted: send the metadata authorization: Bearer KEY"),
      now);
}

std::optional<std::string> Callers::certificate_owner(const Credentials& credentials) const {
  constexpr const char* kPrefix = "cert:";  // no key's owner is called so
  if (allowed_names_.empty()) {
    if (!credentials.certificate.has_value()) return std::nullopt;
    return kPrefix + *credentials.certificate;
  }
  const std::vector<std::string>& names = credentials.certificate_names;
  const auto allowed =
      std::find_first_of(names.begin(), names.end(), allowed_names_.begin(), allowed_names_.end());
  if (allowed == names.end()) return std::nullopt;
  return kPrefix + *allowed;
}

absl::Status Callers::refuse(const Credentials& credentials, absl::Status why,
                             Clock::time_point now) {
  refusals_.count(host_of(credentials.peer), now);
  return why;
}

std::chrono::milliseconds Callers::penalty(const std::string& peer, Clock::time_point now) const {
  return refusals_.excess(host_of(peer), now).has_value() ? kPenalty : std::chrono::milliseconds(0);
}

absl::StatusOr<CallerQuota::Place> Callers::admit(const std::string& name, Clock::time_point now) {
  if (name.empty()) return CallerQuota::Place();
  return quota_.take(name, now);
}

}  // namespace cogserve
