#include "server/access/tls_identity.hpp"

#include <grpc/grpc_security.h>
#include <grpcpp/grpcpp.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>

#include <type_traits>
#include <utility>

#include "absl/strings/str_cat.h"

namespace cogserve {
namespace {

// ---- PEM ----

template <typename T, void (*Free)(T*)>
struct Freed {
  void operator()(T* object) const { Free(object); }
};
using X509Ptr = std::unique_ptr<X509, Freed<X509, X509_free>>;
using KeyPtr = std::unique_ptr<EVP_PKEY, Freed<EVP_PKEY, EVP_PKEY_free>>;
using BioPtr = std::unique_ptr<BIO, Freed<BIO, BIO_free_all>>;

BioPtr reader_of(const std::string& pem) {
  return BioPtr(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
}

// Without it OpenSSL would ask for one at the terminal.
int no_passphrase(char* /*buffer*/, int /*size*/, int /*writing*/, void* /*user*/) { return 0; }

X509Ptr first_certificate(const std::string& pem) {
  return X509Ptr(PEM_read_bio_X509(reader_of(pem).get(), nullptr, no_passphrase, nullptr));
}

absl::Status refuse_file(const std::string& path, const char* what) {
  ERR_clear_error();
  return absl::InvalidArgumentError(absl::StrCat(path, ": ", what));
}

std::string end_of(const X509& certificate) {
  const BioPtr text(BIO_new(BIO_s_mem()));
  ASN1_TIME_print(text.get(), X509_get0_notAfter(&certificate));
  char* bytes = nullptr;
  const long size = BIO_get_mem_data(text.get(), &bytes);  // NOLINT: OpenSSL's type
  return {bytes, static_cast<size_t>(size)};
}

// Whether TLS takes them: it has its own idea of what is strong enough.
bool can_be_used(X509* certificate, EVP_PKEY* key) {
  const std::unique_ptr<SSL_CTX, Freed<SSL_CTX, SSL_CTX_free>> trial(SSL_CTX_new(TLS_method()));
  return SSL_CTX_use_certificate(trial.get(), certificate) == 1 &&
         SSL_CTX_use_PrivateKey(trial.get(), key) == 1;
}

// The certificate's end, if the three belong together.
absl::StatusOr<std::string> check(const TlsFiles& paths, const TlsIdentity::Pem& pem) {
  const KeyPtr key(
      PEM_read_bio_PrivateKey(reader_of(pem.key).get(), nullptr, no_passphrase, nullptr));
  if (key == nullptr) return refuse_file(paths.key, "holds no private key, or one with a password");
  const X509Ptr certificate = first_certificate(pem.certificate);
  if (certificate == nullptr) return refuse_file(paths.certificate, "holds no certificate");
  if (X509_check_private_key(certificate.get(), key.get()) != 1) {
    return refuse_file(paths.key, "is not the key of the certificate");
  }
  if (!paths.client_authorities.empty() && first_certificate(pem.client_authorities) == nullptr) {
    return refuse_file(paths.client_authorities, "holds no certificate");
  }
  if (X509_cmp_current_time(X509_get0_notAfter(certificate.get())) < 0) {
    return refuse_file(paths.certificate, "has ended");
  }
  if (!can_be_used(certificate.get(), key.get())) {
    return refuse_file(paths.certificate, "is refused by TLS: a longer key, a stronger signature?");
  }
  return end_of(*certificate);
}

// ---- gRPC ----

grpc_ssl_certificate_config_reload_status fetch(void* identity,
                                                grpc_ssl_server_certificate_config** config) {
  const auto pem = static_cast<TlsIdentity*>(identity)->take_new();
  if (!pem.has_value()) return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_UNCHANGED;
  const grpc_ssl_pem_key_cert_pair pair{pem->key.c_str(), pem->certificate.c_str()};
  // gRPC ends the process where there are none, even if clients are not asked (1.51): then any will
  // do.
  const std::string& authorities =
      pem->client_authorities.empty() ? pem->certificate : pem->client_authorities;
  *config = grpc_ssl_server_certificate_config_create(authorities.c_str(), &pair, 1);
  return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_NEW;
}

// Only gRPC's C API keeps the last good certificate while files are replaced (its C++ file watcher
// goes without any); the class between the two is abstract in old versions and takes the C object
// in new ones. What asks for the new one is safe on one listening socket (grpc#36693).
template <typename Base, bool is_abstract = std::is_abstract_v<Base>>
class WrappedCredentials : public Base {
 public:
  explicit WrappedCredentials(grpc_server_credentials* wrapped) : wrapped_(wrapped) {}
  ~WrappedCredentials() override { grpc_server_credentials_release(wrapped_); }

  void SetAuthMetadataProcessor(
      const std::shared_ptr<grpc::AuthMetadataProcessor>& /*processor*/) override {}

 private:
  int AddPortToServer(const std::string& address, grpc_server* server) override {
    return grpc_server_add_http2_port(server, address.c_str(), wrapped_);
  }

  grpc_server_credentials* const wrapped_;
};

template <typename Base>
class WrappedCredentials<Base, false> : public Base {
 public:
  explicit WrappedCredentials(grpc_server_credentials* wrapped) : Base(wrapped) {}
};

}  // namespace

TlsIdentity::TlsIdentity(const TlsFiles& files)
    : paths_(files),
      files_(
          files.client_authorities.empty()
              ? std::vector<std::string>{files.certificate, files.key}
              : std::vector<std::string>{files.certificate, files.key, files.client_authorities}) {}

absl::StatusOr<std::unique_ptr<TlsIdentity>> TlsIdentity::load(const TlsFiles& files) {
  std::unique_ptr<TlsIdentity> identity(new TlsIdentity(files));
  if (const auto taken = identity->refresh(); !taken.ok()) return taken.status();
  return identity;
}

absl::StatusOr<bool> TlsIdentity::refresh() {
  auto contents = files_.look();
  if (!contents.ok()) return contents.status();
  if (!contents->has_value()) return false;
  std::vector<std::string>& texts = **contents;
  Pem pem{std::move(texts[0]), std::move(texts[1]), texts.size() > 2 ? std::move(texts[2]) : ""};
  absl::StatusOr<std::string> expiry = check(paths_, pem);
  if (!expiry.ok()) return expiry.status();
  const std::lock_guard lock(mutex_);
  pem_ = std::move(pem);
  expiry_ = *std::move(expiry);
  is_new_ = true;
  return true;
}

std::shared_ptr<grpc::ServerCredentials> TlsIdentity::credentials() {
  const auto request = paths_.client_authorities.empty() ? GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE
                       : paths_.client_certificate_required
                           ? GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY
                           : GRPC_SSL_REQUEST_CLIENT_CERTIFICATE_AND_VERIFY;
  return std::make_shared<WrappedCredentials<grpc::ServerCredentials>>(
      grpc_ssl_server_credentials_create_with_options(
          grpc_ssl_server_credentials_create_options_using_config_fetcher(request, fetch, this)));
}

std::string TlsIdentity::expiry() const {
  const std::lock_guard lock(mutex_);
  return expiry_;
}

std::optional<TlsIdentity::Pem> TlsIdentity::take_new() {
  const std::lock_guard lock(mutex_);
  if (!std::exchange(is_new_, false)) return std::nullopt;
  return pem_;
}

std::vector<std::string> certificate_names(const grpc::AuthContext& client) {
  std::vector<std::string> names;
  // An authority may be trusted with names of one type only: a URI must not pass for a DNS name,
  // nor the other way round. The colon tells them apart.
  const auto add = [&](const char* property, bool are_uris) {
    for (const grpc::string_ref& value : client.FindPropertyValues(property)) {
      std::string name(value.data(), value.size());
      if ((name.find(':') != std::string::npos) == are_uris) names.push_back(std::move(name));
    }
  };
  add(GRPC_PEER_DNS_PROPERTY_NAME, false);
  add(GRPC_PEER_URI_PROPERTY_NAME, true);
  if (client.FindPropertyValues(GRPC_X509_SAN_PROPERTY_NAME).empty()) {
    add(GRPC_X509_CN_PROPERTY_NAME, false);
  }
  return names;
}

}  // namespace cogserve
