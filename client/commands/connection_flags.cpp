#include "client/commands/connection_flags.hpp"

#include "client/commands/files.hpp"

namespace cogserve::client {

void ConnectionFlags::add_to(OptionTable* table) {
  table->group("Connection");
  table->add("server", &server, "ADDRESS", "host:port, dns:///name:port or unix:/path.");
  table->add("tls", &tls, "Encrypt, and check the server's certificate.");
  table->add("cacert", &ca_certificate, "FILE",
             "Authorities to trust with --tls, PEM; the system's where absent.");
  table->add("deadline", &deadline, "DURATION", "Longest time for one call; 0: no limit.");
  table->add("retries", &retries, "N",
             "Further tries after a refusal that may pass (UNAVAILABLE, or RESOURCE_EXHAUSTED with "
             "a delay), never once an answer has begun.");
}

Result<Client> ConnectionFlags::connect() const {
  ConnectOptions options{.target = server,
                         .tls = tls,
                         .ca_certificates = {},
                         .deadline = deadline,
                         .retries = retries};
  if (!ca_certificate.empty()) {
    if (!tls) {
      return Error{.code = Code::kInvalidArgument,
                   .reason = "USAGE",
                   .field = "--cacert",
                   .message = "is for --tls; without it nothing is encrypted"};
    }
    auto certificates = read_file(ca_certificate);
    if (!certificates.ok()) {
      Error error = certificates.error();
      error.field = "--cacert";
      return error;
    }
    options.ca_certificates = *std::move(certificates);
  }
  return Client::connect(options);
}

}  // namespace cogserve::client
