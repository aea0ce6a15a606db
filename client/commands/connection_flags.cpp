#include "client/commands/connection_flags.hpp"

#include <optional>
#include <utility>

#include "client/commands/files.hpp"

namespace cogserve::client {

void ConnectionFlags::add_to(OptionTable* table) {
  table->group("Connection");
  table->add("server", &server, "ADDRESS", "host:port, dns:///name:port or unix:/path.");
  table->add("tls", &tls, "Encrypt, and check the server's certificate.");
  table->add("cacert", &ca_certificate, "FILE",
             "Authorities to trust with --tls, PEM; the system's where absent.");
  table->add("cert", &certificate, "FILE", "Certificate to show with --tls, PEM.");
  table->add("key", &private_key, "FILE", "Its private key, PEM.");
  table->add("api-key", &api_key, "KEY",
             "Key of a server that asks for one. Others on this machine may see it here: better in "
             "the environment.");
  table->add("deadline", &deadline, "DURATION", "Longest time for one call; 0: no limit.");
  table->add("retries", &retries, "N",
             "Further tries after a refusal that may pass (UNAVAILABLE, or RESOURCE_EXHAUSTED with "
             "a delay), never once an answer has begun.");
}

namespace {

// Reads the file that `flag` names, if it names one.
std::optional<Error> read_pem(const char* flag, const std::string& path, bool tls,
                              std::string* pem) {
  if (path.empty()) return std::nullopt;
  if (!tls) {
    return Error{.code = Code::kInvalidArgument,
                 .reason = "USAGE",
                 .field = flag,
                 .message = "is for --tls; without it nothing is encrypted"};
  }
  auto text = read_file(path);
  if (!text.ok()) {
    Error error = text.error();
    error.field = flag;
    return error;
  }
  *pem = *std::move(text);
  return std::nullopt;
}

}  // namespace

Result<Client> ConnectionFlags::connect() const {
  ConnectOptions options{
      .target = server, .tls = tls, .api_key = api_key, .deadline = deadline, .retries = retries};
  if (auto error = read_pem("--cacert", ca_certificate, tls, &options.ca_certificates)) {
    return *std::move(error);
  }
  if (auto error = read_pem("--cert", certificate, tls, &options.certificate)) {
    return *std::move(error);
  }
  if (auto error = read_pem("--key", private_key, tls, &options.private_key)) {
    return *std::move(error);
  }
  return Client::connect(options);
}

}  // namespace cogserve::client
