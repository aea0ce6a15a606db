// Certificates for tests, made on the spot.
#pragma once

#include <openssl/evp.h>
#include <openssl/x509.h>

#include <memory>
#include <string>

namespace cogserve {

struct PemPair {
  std::string certificate;
  std::string key;
};

// An authority that signs for as long as a test lasts.
class Authority {
 public:
  explicit Authority(const std::string& name);

  const std::string& certificate() const { return pem_; }

  // For a server at 127.0.0.1 and localhost, or a client of that name; empty: without any name.
  PemPair sign(const std::string& name) const;
  // The subject alternative names in OpenSSL's notation: "DNS:a,URI:b"; empty: none.
  PemPair sign(const std::string& common_name, const std::string& alternative_names) const;

 private:
  using Key = std::unique_ptr<EVP_PKEY, decltype(&EVP_PKEY_free)>;
  using Certificate = std::unique_ptr<X509, decltype(&X509_free)>;

  Key key_;
  Certificate certificate_;
  std::string pem_;
};

}  // namespace cogserve
