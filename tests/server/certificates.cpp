#include "tests/server/certificates.hpp"

#include <openssl/bio.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include <cstdlib>
#include <iostream>
#include <utility>

namespace cogserve {
namespace {

constexpr long kHour = 3600;  // NOLINT: OpenSSL's type

void require(bool done, const char* what) {
  if (done) return;
  std::cerr << "OpenSSL: " << what << '\n';
  std::abort();
}

template <typename Write>
std::string to_pem(const Write& write) {
  const std::unique_ptr<BIO, decltype(&BIO_free_all)> text(BIO_new(BIO_s_mem()), BIO_free_all);
  require(write(text.get()) == 1, "writing PEM");
  char* bytes = nullptr;
  const auto size = BIO_get_mem_data(text.get(), &bytes);
  return {bytes, static_cast<size_t>(size)};
}

std::string to_pem(X509* certificate) {
  return to_pem([&](BIO* text) { return PEM_write_bio_X509(text, certificate); });
}

void add_extension(X509* certificate, X509* issuer, int id, const char* value) {
  X509V3_CTX context;
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  X509_EXTENSION* extension = X509V3_EXT_conf_nid(nullptr, &context, id, value);
  require(extension != nullptr && X509_add_ext(certificate, extension, -1) == 1, value);
  X509_EXTENSION_free(extension);
}

// A version 3 certificate, not signed yet.
X509* make_certificate(const std::string& name, EVP_PKEY* key) {
  static long serial = 0;  // NOLINT: OpenSSL's type
  X509* certificate = X509_new();
  require(X509_set_version(certificate, 2) == 1, "version");
  ASN1_INTEGER_set(X509_get_serialNumber(certificate), ++serial);
  X509_gmtime_adj(X509_getm_notBefore(certificate), -kHour);
  X509_gmtime_adj(X509_getm_notAfter(certificate), kHour);
  X509_set_pubkey(certificate, key);
  if (!name.empty()) {
    X509_NAME_add_entry_by_txt(X509_get_subject_name(certificate), "CN", MBSTRING_UTF8,
                               reinterpret_cast<const unsigned char*>(name.c_str()), -1, -1, 0);
  }
  return certificate;
}

}  // namespace

Authority::Authority(const std::string& name)
    : key_(EVP_EC_gen("P-256"), EVP_PKEY_free),
      certificate_(make_certificate(name, key_.get()), X509_free) {
  X509* const own = certificate_.get();
  X509_set_issuer_name(own, X509_get_subject_name(own));
  add_extension(own, own, NID_basic_constraints, "critical,CA:TRUE");
  add_extension(own, own, NID_key_usage, "critical,keyCertSign");
  require(X509_sign(own, key_.get(), EVP_sha256()) > 0, "signing");
  pem_ = to_pem(own);
}

PemPair Authority::sign(const std::string& name) const {
  return sign(name, name.empty() ? "" : "DNS:" + name + ",DNS:localhost,IP:127.0.0.1");
}

PemPair Authority::sign(const std::string& common_name,
                        const std::string& alternative_names) const {
  const Key key(EVP_EC_gen("P-256"), EVP_PKEY_free);
  const Certificate signed_one(make_certificate(common_name, key.get()), X509_free);
  X509* const one = signed_one.get();
  X509_set_issuer_name(one, X509_get_subject_name(certificate_.get()));
  if (!alternative_names.empty()) {
    add_extension(one, certificate_.get(), NID_subject_alt_name, alternative_names.c_str());
  }
  require(X509_sign(one, key_.get(), EVP_sha256()) > 0, "signing");
  return {to_pem(one), to_pem([&](BIO* text) {
            return PEM_write_bio_PrivateKey(text, key.get(), nullptr, nullptr, 0, nullptr, nullptr);
          })};
}

}  // namespace cogserve
