#include <chrono>
#include <iostream>
#include <thread>

#include "client/commands.hpp"
#include "client/commands/connection_flags.hpp"
#include "client/commands/report.hpp"
#include "client/utf8.hpp"

namespace cogserve {
namespace {

using client::Health;

constexpr std::chrono::milliseconds kPollInterval{200};

const char* health_name(Health health) {
  switch (health) {
    case Health::kServing:
      return "SERVING";
    case Health::kNotServing:
      return "NOT_SERVING";
    case Health::kServiceUnknown:
      return "SERVICE_UNKNOWN";
    case Health::kUnknown:
      break;
  }
  return "UNKNOWN";
}

bool may_become_serving(const client::Result<Health>& health) {
  if (health.ok()) return *health != Health::kServing;
  return health.error().code == client::Code::kUnavailable ||
         health.error().code == client::Code::kDeadlineExceeded;
}

}  // namespace

int run_health(const std::vector<std::string>& arguments) {
  client::ConnectionFlags connection;
  connection.deadline = std::chrono::seconds(5);
  connection.retries = 0;
  std::string service;
  std::chrono::milliseconds wait{0};
  OptionTable table("health", "[options]",
                    "ask a server whether it is serving; exit code 0 when it is.");
  table.group("Health");
  table.add("service", &service, "NAME",
            "A name of grpc.health.v1: empty is the whole server, \"liveness\" the process.");
  table.add("wait", &wait, "DURATION", "Keep asking so long until the answer is SERVING.");
  connection.add_to(&table);
  std::vector<std::string> positional;
  if (const auto code = client::parse_arguments(&table, arguments, &positional)) return *code;
  if (!positional.empty()) {
    return client::fail(client::kExitUsage, "USAGE", "", "unexpected: " + positional[0]);
  }

  if (!client::is_utf8(service)) {
    return client::fail(client::kExitUsage, "USAGE", "--service", "is not UTF-8");
  }
  auto server = connection.connect();
  if (!server.ok()) return client::fail(server.error());
  const auto end = std::chrono::steady_clock::now() + wait;
  auto health = server->health(service);
  while (may_become_serving(health) && std::chrono::steady_clock::now() < end) {
    std::this_thread::sleep_for(kPollInterval);
    health = server->health(service);
  }
  if (!health.ok()) return client::fail(health.error());
  std::cout << health_name(*health) << std::endl;
  return *health == Health::kServing ? 0 : client::kExitLocal;
}

}  // namespace cogserve
