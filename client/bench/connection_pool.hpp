// The connections of a load test, as many as its calls in flight need. A server limits the streams
// of one connection, and gRPC keeps the calls above that limit waiting inside the client: the
// server could neither queue nor refuse them, and an open loop would be a closed one. Thread-safe.
#pragma once

#include <cstddef>
#include <deque>
#include <mutex>

#include "client/client.hpp"

namespace cogserve::client {

class ConnectionPool {
 public:
  // Half of what cogserve takes on one connection unless it is told otherwise.
  static constexpr int kCallsEach = 16;

  // `client` and others like it: so many together where `fixed` is above 0, else a new one whenever
  // all have kCallsEach calls.
  explicit ConnectionPool(Client client, int fixed = 0);

  // For calls that are not part of the load.
  Client& first();

  // The connection with the fewest calls, for one more; given back when the call has ended.
  Client& take();
  void give_back(const Client& client);

  size_t size() const;

 private:
  struct Connection {
    Client client;
    int calls = 0;
  };

  const bool grows_;
  mutable std::mutex mutex_;
  std::deque<Connection> connections_;  // never moved once they are here
};

}  // namespace cogserve::client
