#include "client/bench/connection_pool.hpp"

#include <algorithm>
#include <iterator>
#include <utility>

namespace cogserve::client {

ConnectionPool::ConnectionPool(Client client, int fixed) : grows_(fixed == 0) {
  connections_.push_back({std::move(client), 0});
  for (int i = 1; i < fixed; ++i) {
    connections_.push_back({connections_.front().client.another(), 0});
  }
}

Client& ConnectionPool::first() {
  const std::lock_guard lock(mutex_);
  return connections_.front().client;
}

Client& ConnectionPool::take() {
  const std::lock_guard lock(mutex_);
  auto least = std::min_element(
      connections_.begin(), connections_.end(),
      [](const Connection& one, const Connection& other) { return one.calls < other.calls; });
  if (grows_ && least->calls >= kCallsEach) {
    connections_.push_back({connections_.front().client.another(), 0});
    least = std::prev(connections_.end());
  }
  ++least->calls;
  return least->client;
}

void ConnectionPool::give_back(const Client& client) {
  const std::lock_guard lock(mutex_);
  for (Connection& connection : connections_) {
    if (&connection.client == &client) --connection.calls;
  }
}

size_t ConnectionPool::size() const {
  const std::lock_guard lock(mutex_);
  return connections_.size();
}

}  // namespace cogserve::client
