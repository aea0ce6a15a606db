// The flags that say where the server is and how to talk to it; shared by all client verbs.
#pragma once

#include <chrono>
#include <string>

#include "client/client.hpp"
#include "command/option_table.hpp"

namespace cogserve::client {

struct ConnectionFlags {
  std::string server = "127.0.0.1:8001";
  bool tls = false;
  std::string ca_certificate;
  std::string certificate;
  std::string private_key;
  std::string api_key;
  std::chrono::milliseconds deadline{0};
  int retries = 3;

  // `this` must outlive the table.
  void add_to(OptionTable* table);

  Result<Client> connect() const;
};

}  // namespace cogserve::client
