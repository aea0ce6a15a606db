// The connection below the calls: peers that vanish, streams, metadata and age.
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "tests/server/test_server.hpp"

namespace cogserve {
namespace {

using std::chrono::milliseconds;

sockaddr_in loopback(int port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

// Carries one connection to a server, until it falls silent: as when a cable is pulled, neither
// side is told.
class Wire {
 public:
  explicit Wire(int server_port) : listener_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in own = loopback(0);
    socklen_t size = sizeof(own);
    EXPECT_EQ(::bind(listener_, reinterpret_cast<sockaddr*>(&own), size), 0);
    EXPECT_EQ(::listen(listener_, 1), 0);
    EXPECT_EQ(::getsockname(listener_, reinterpret_cast<sockaddr*>(&own), &size), 0);
    port_ = ntohs(own.sin_port);
    thread_ = std::thread([this, server_port] { carry(server_port); });
  }

  ~Wire() {
    done_ = true;
    thread_.join();
    ::close(listener_);
  }

  int port() const { return port_; }
  void fall_silent() { silent_ = true; }

 private:
  void carry(int server_port) {
    const int client = ::accept(listener_, nullptr, nullptr);
    const int server = ::socket(AF_INET, SOCK_STREAM, 0);
    const sockaddr_in address = loopback(server_port);
    EXPECT_EQ(::connect(server, reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
    pollfd ends[] = {{client, POLLIN, 0}, {server, POLLIN, 0}};
    while (!done_) {
      if (::poll(ends, 2, 1) <= 0 || silent_) continue;
      pass(ends[0], server);
      pass(ends[1], client);
    }
    ::close(client);
    ::close(server);
  }

  void pass(const pollfd& from, int to) {
    char bytes[4096];
    if ((from.revents & POLLIN) == 0) return;
    const ssize_t count = ::read(from.fd, bytes, sizeof(bytes));
    if (count <= 0 || ::send(to, bytes, static_cast<size_t>(count), MSG_NOSIGNAL) != count) {
      silent_ = true;
    }
  }

  const int listener_;
  int port_ = 0;
  std::atomic<bool> silent_{false};
  std::atomic<bool> done_{false};
  std::thread thread_;
};

TEST(Network, a_client_that_vanishes_without_a_word_frees_its_sequence) {
  TestServerOptions options;
  options.network.keepalive_time = milliseconds(100);
  options.network.keepalive_timeout = milliseconds(1000);
  TestServer server(options);
  server.engine().pause();
  Wire wire(server.port());
  const auto stub = v1::CogServe::NewStub(grpc::CreateChannel(
      "127.0.0.1:" + std::to_string(wire.port()), grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  const auto reader = stub->StreamChat(&context, ask("x", 1000));
  server.engine().wait_until_submitted(1);
  wire.fall_silent();
  server.engine().wait_until_idle();
  context.TryCancel();
}

TEST(Network, a_connection_has_so_many_streams_and_the_next_call_waits_for_one) {
  TestServerOptions options;
  options.network.max_streams = 2;
  TestServer server(options);
  server.engine().pause();
  const auto stub = v1::CogServe::NewStub(server.connect());
  std::vector<std::thread> callers;
  for (int i = 0; i < 3; ++i) {
    callers.emplace_back([&] { EXPECT_TRUE(chat(*stub, ask("x")).status.ok()); });
  }
  server.engine().wait_until_submitted(2);
  // Another connection's call does not wait for them, and all that came before has come by then.
  const auto other = v1::CogServe::NewStub(server.connect());
  std::thread caller([&] { EXPECT_TRUE(chat(*other, ask("other")).status.ok()); });
  const std::vector<int32_t> ids = server.prompt_ids("other");
  while (server.engine().last_request().text_ids != ids) std::this_thread::yield();
  EXPECT_EQ(server.engine().submitted(), 3);
  server.engine().resume();
  for (std::thread& thread : callers) thread.join();
  caller.join();
  EXPECT_EQ(server.engine().submitted(), 4);
}

TEST(Network, metadata_without_end_is_refused) {
  TestServer server;
  for (const size_t size : {size_t{20} << 10, size_t{1} << 20}) {
    grpc::ClientContext context;
    context.AddMetadata("x-more", std::string(size, 'x'));
    v1::ChatResponse response;
    const auto stub = v1::CogServe::NewStub(server.connect());
    EXPECT_EQ(stub->Chat(&context, ask("x"), &response).error_code(),
              grpc::StatusCode::RESOURCE_EXHAUSTED);
  }
  EXPECT_TRUE(chat(server.stub(), ask("x")).status.ok());
}

TEST(Network, an_old_connection_is_left_for_a_new_one_and_no_call_is_cut) {
  TestServerOptions options;
  options.network.max_connection_age = milliseconds(20);
  TestServer server(options);
  server.engine().pause();
  const auto channel = server.connect();
  const auto stub = v1::CogServe::NewStub(channel);
  grpc::ClientContext context;
  const auto running = stub->StreamChat(&context, ask("x", 50));
  server.engine().wait_until_running(1);
  while (channel->GetState(false) == GRPC_CHANNEL_READY) std::this_thread::yield();
  std::thread caller([&] { EXPECT_TRUE(chat(*stub, ask("y")).status.ok()); });
  server.engine().wait_until_running(2);
  server.engine().resume();
  EXPECT_TRUE(read_stream(running.get()).status.ok());
  caller.join();
}

}  // namespace
}  // namespace cogserve
