// Clients that send what nobody should, break off, or take nothing: they harm themselves alone.
#include <arpa/inet.h>
#include <grpcpp/create_channel_posix.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <thread>
#include <vector>

#include "tests/server/test_server.hpp"

namespace cogserve {
namespace {

TEST(HostileClient, bytes_that_are_no_message_do_not_disturb_others) {
  TestServer server;
  const auto channel = server.connect();
  std::string not_utf8 = ask("?").SerializeAsString();
  not_utf8[not_utf8.find('?')] = '\xff';
  for (const std::string& bytes :
       {not_utf8, std::string("\xff\xff\xff"), std::string(100000, '\x12'),
        std::string("\x12\xff\xff\xff\xff\x0f")}) {
    for (const char* method : {"Chat", "StreamChat"}) {
      std::string response;
      const grpc::Status status =
          exchange(channel, std::string("/cogserve.v1.CogServe/") + method, bytes, &response);
      EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << method;
      EXPECT_EQ(parse_error(status).reason, "MALFORMED_REQUEST") << method;
    }
  }
  std::string response;
  EXPECT_EQ(exchange(channel, "/cogserve.v1.CogServe/Nothing", "", &response).error_code(),
            grpc::StatusCode::UNIMPLEMENTED);
  v1::ChatRequest request = ask("x");
  request.mutable_messages(0)->mutable_parts(0)->set_image(std::string(13 << 20, 'x'));
  EXPECT_EQ(chat(server.stub(), request).status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_TRUE(chat(server.stub(), ask("x")).status.ok());
}

TEST(HostileClient, a_message_that_is_nested_too_deep_is_refused) {
  TestServer server;
  const auto nested = [](int depth) {
    std::string bytes = ask("?").SerializeAsString();
    for (int i = 0; i < depth; ++i) bytes += "\xa3\x06";  // begins a group in an unknown field
    for (int i = 0; i < depth; ++i) bytes += "\xa4\x06";
    return bytes;
  };
  const auto code = [&](int depth) {
    std::string response;
    return exchange(server.connect(), "/cogserve.v1.CogServe/Chat", nested(depth), &response)
        .error_code();
  };
  EXPECT_EQ(code(10), grpc::StatusCode::OK);
  EXPECT_EQ(code(30), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(code(1000000), grpc::StatusCode::INVALID_ARGUMENT);
}

// gRPC would inflate it whole before it looks at the size.
TEST(HostileClient, a_compressed_message_is_refused) {
  TestServer server;
  for (const auto algorithm : {GRPC_COMPRESS_DEFLATE, GRPC_COMPRESS_GZIP}) {
    grpc::ClientContext context;
    context.set_compression_algorithm(algorithm);
    v1::ChatResponse response;
    EXPECT_EQ(server.stub().Chat(&context, ask(std::string(1 << 20, 'x')), &response).error_code(),
              grpc::StatusCode::UNIMPLEMENTED);
  }
  EXPECT_TRUE(chat(server.stub(), ask("x")).status.ok());
}

TEST(HostileClient, a_client_whose_connection_breaks_frees_its_sequence) {
  TestServer server;
  server.engine().pause();
  const int socket_fd = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(server.server().port()));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  ASSERT_EQ(::connect(socket_fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  const int kept = ::dup(socket_fd);  // the channel owns the other
  auto stub = v1::CogServe::NewStub(grpc::CreateInsecureChannelFromFd("broken", socket_fd));
  grpc::ClientContext context;
  auto reader = stub->StreamChat(&context, ask("x", 1000));
  server.engine().wait_until_running(1);
  ::shutdown(kept, SHUT_RDWR);
  server.engine().wait_until_idle();
  EXPECT_FALSE(read_stream(reader.get()).status.ok());
  ::close(kept);
}

TEST(HostileClient, a_connection_that_cancels_without_end_is_refused) {
  TestServerOptions options;
  options.chat.max_cancels = 5;
  TestServer server(options);
  server.engine().pause();
  CallError error;
  for (int i = 0; i < 100 && error.reason.empty(); ++i) {
    grpc::ClientContext context;
    auto reader = server.stub().StreamChat(&context, ask("x", 1000));
    server.engine().allow_steps(1);
    v1::StreamChatResponse message;
    if (reader->Read(&message)) context.TryCancel();  // else it is refused
    error = parse_error(reader->Finish());
    server.engine().wait_until_idle();
  }
  EXPECT_EQ(error.reason, "CANCEL_RATE");
  EXPECT_EQ(error.code, grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_GT(error.retry_ms, 0);
  server.engine().resume();
  auto other = v1::CogServe::NewStub(server.connect());
  EXPECT_TRUE(chat(*other, ask("x")).status.ok());
}

// A client's own copy of its deadline ends first, and resets the stream.
TEST(HostileClient, deadlines_that_pass_are_no_cancelling) {
  TestServerOptions options;
  options.chat.max_cancels = 3;
  TestServer server(options);
  server.engine().pause();
  std::vector<std::thread> callers;
  for (int i = 0; i < 10; ++i) {
    callers.emplace_back([&server, i] {
      grpc::ClientContext context;
      context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(1001 + i));
      EXPECT_EQ(
          read_stream(server.stub().StreamChat(&context, ask("x", 100)).get()).status.error_code(),
          grpc::StatusCode::DEADLINE_EXCEEDED);
    });
  }
  for (std::thread& caller : callers) caller.join();
  server.engine().wait_until_idle();
  server.engine().resume();
  EXPECT_TRUE(chat(server.stub(), ask("x")).status.ok());
}

TEST(HostileClient, an_answer_that_is_not_taken_is_given_up) {
  TestServerOptions options;
  options.watch.patience = std::chrono::milliseconds(200);
  TestServer server(options);
  v1::ChatRequest big = ask("never taken", 4096);
  big.set_logprobs(20);
  auto stub = v1::CogServe::NewStub(server.connect(true));
  grpc::CompletionQueue queue;
  grpc::ClientContext context;
  auto call = stub->PrepareAsyncChat(&context, big, &queue);
  call->StartCall();
  int metadata = 0;
  call->ReadInitialMetadata(&metadata);  // and nothing more
  server.engine().wait_until_submitted(1);
  EXPECT_TRUE(server.server().wait_until_idle(std::chrono::minutes(1)));

  v1::ChatResponse response;
  grpc::Status status;
  int end = 0;
  call->Finish(&response, &status, &end);
  void* tag = nullptr;
  for (bool ok = false; tag != &end;) ASSERT_TRUE(queue.Next(&tag, &ok));
  EXPECT_FALSE(status.ok());
  queue.Shutdown();
  EXPECT_TRUE(chat(server.stub(), ask("x")).status.ok());
}

}  // namespace
}  // namespace cogserve
