// Who may call, over the network: keys, TLS and client certificates, and their replacement.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <openssl/ssl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <thread>

#include "tests/server/certificates.hpp"
#include "tests/server/test_server.hpp"
#include "tests/temporary_directory.hpp"

namespace cogserve {
namespace {

using std::chrono::milliseconds;
using testing::HasSubstr;

constexpr const char* kKey = "the-only-key-of-all";
constexpr const char* kBearer = "Bearer the-only-key-of-all";

TestServerOptions with_key() {
  TestServerOptions options;
  options.network.access.api_keys = {kKey};
  return options;
}

grpc::Status get_model(v1::CogServe::Stub& stub, const std::string& authorization) {
  grpc::ClientContext context;
  if (!authorization.empty()) context.AddMetadata("authorization", authorization);
  v1::Model model;
  return stub.GetModel(&context, {}, &model);
}

TEST(Keys, calls_without_one_are_refused_before_anything_else_and_health_is_open) {
  TestServer server(with_key());
  for (const std::string wrong : {"", "Bearer another-key-altogether", "the-only-key-of-all"}) {
    const CallError unary = parse_error(chat(server.stub(), ask("x"), wrong).status);
    EXPECT_EQ(unary.code, grpc::StatusCode::UNAUTHENTICATED);
    EXPECT_EQ(unary.reason, "UNAUTHENTICATED");
    EXPECT_EQ(unary.retryable, "false");
    EXPECT_EQ(unary.request_id, "");
    EXPECT_EQ(parse_error(get_model(server.stub(), wrong)).message, unary.message);
    // Not even whether it could be parsed.
    EXPECT_EQ(parse_error(chat(server.stub(), v1::ChatRequest(), wrong).status).message,
              unary.message);
  }
  EXPECT_EQ(parse_error(stream_chat(server.stub(), ask("x")).status).reason, "UNAUTHENTICATED");
  EXPECT_EQ(health_of(server.connect(), ""), "SERVING");

  EXPECT_TRUE(chat(server.stub(), ask("x"), kBearer).status.ok());
  EXPECT_TRUE(get_model(server.stub(), kBearer).ok());
}

TEST(Keys, a_host_that_guesses_is_made_to_wait_and_those_with_a_key_are_not) {
  TestServer server(with_key());
  for (int i = 0; i < Callers::kMaxRefusals; ++i) chat(server.stub(), ask("x"), "Bearer guess");
  // One that does not wait learns nothing.
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + milliseconds(20));
  v1::ChatResponse response;
  EXPECT_EQ(server.stub().Chat(&context, ask("x"), &response).error_code(),
            grpc::StatusCode::DEADLINE_EXCEEDED);
  const Clock::time_point begin = Clock::now();
  EXPECT_TRUE(chat(server.stub(), ask("x"), kBearer).status.ok());
  EXPECT_EQ(parse_error(stream_chat(server.stub(), ask("x")).status).reason, "UNAUTHENTICATED");
  EXPECT_GE(Clock::now() - begin, Callers::kPenalty);
}

TEST(Keys, a_caller_with_all_its_calls_running_is_refused_until_one_ends) {
  TestServerOptions options = with_key();
  options.network.access.quota = {.max_calls = 2, .max_rate = 0};
  TestServer server(options);
  server.engine().pause();
  std::vector<std::thread> running;
  for (int i = 0; i < 2; ++i) {
    running.emplace_back(
        [&server] { EXPECT_TRUE(chat(server.stub(), ask("x"), kBearer).status.ok()); });
  }
  server.engine().wait_until_submitted(2);
  const CallError error = parse_error(chat(server.stub(), ask("x"), kBearer).status);
  EXPECT_EQ(error.code, grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(error.reason, "TENANT_QUOTA");
  EXPECT_EQ(error.quota, "TENANT_QUOTA");
  EXPECT_EQ(error.limit, "2");
  EXPECT_EQ(error.retryable, "true");
  server.engine().resume();
  for (std::thread& thread : running) thread.join();
  EXPECT_TRUE(chat(server.stub(), ask("x"), kBearer).status.ok());
}

TEST(Keys, the_engine_tells_callers_apart_by_a_number_each) {
  TestServerOptions options;
  options.network.access.api_keys = {"the-first-key-of-two", "the-second-key-of-two"};
  TestServer server(options);
  const auto number_of = [&server](const std::string& authorization) {
    EXPECT_TRUE(chat(server.stub(), ask("x"), authorization).status.ok());
    return server.engine().last_request().caller;
  };
  const uint64_t first = number_of("Bearer the-first-key-of-two");
  const uint64_t second = number_of("Bearer the-second-key-of-two");
  EXPECT_NE(first, 0u);
  EXPECT_NE(second, 0u);
  EXPECT_NE(first, second);
  EXPECT_EQ(number_of("Bearer the-first-key-of-two"), first);
  EXPECT_EQ(server.engine().last_room_asker(), first) << "before a picture would be read";
  server.engine().refuse_submissions(absl::ResourceExhaustedError("full"));
  EXPECT_FALSE(chat(server.stub(), ask("x"), "Bearer the-second-key-of-two").status.ok());
  EXPECT_EQ(server.engine().last_room_asker(), second) << "before its request is parsed";
}

TEST(Keys, callers_without_one_are_nobody_to_the_engine) {
  TestServer server;
  EXPECT_TRUE(chat(server.stub(), ask("x")).status.ok());
  EXPECT_EQ(server.engine().last_request().caller, 0u);
}

TEST(Keys, a_key_that_is_taken_out_of_the_file_opens_no_more) {
  const TemporaryDirectory dir;
  TestServerOptions options;
  options.network.access.api_key_file = dir.write("keys", "alice the-first-key-here\n");
  options.watch.refresh_period = milliseconds(5);
  TestServer server(options);
  EXPECT_TRUE(chat(server.stub(), ask("x"), "Bearer the-first-key-here").status.ok());
  dir.write("keys", "alice the-second-key-here\n");
  while (chat(server.stub(), ask("x"), "Bearer the-first-key-here").status.ok()) {
  }
  EXPECT_TRUE(chat(server.stub(), ask("x"), "Bearer the-second-key-here").status.ok());
}

TEST(Keys, a_file_that_cannot_be_used_is_an_error_at_the_start) {
  NetworkOptions network;
  network.port = 0;
  network.access.api_key_file = "/nonexistent/keys";
  const auto server = GrpcServer::start(network, {}, {});
  EXPECT_THAT(std::string(server.status().message()), HasSubstr("/nonexistent/keys"));
}

// A server with a certificate of an authority that its clients trust.
class Tls : public testing::Test {
 protected:
  Tls() { install(authority_.sign("server-1")); }

  void install(const PemPair& pair) {
    files_.certificate = dir_.write("cert.pem", pair.certificate);
    files_.key = dir_.write("key.pem", pair.key);
  }

  // Clients may, or must, show a certificate of another authority.
  void ask_clients(bool required) {
    files_.client_authorities = dir_.write("clients.pem", clients_.certificate());
    files_.client_certificate_required = required;
  }

  TestServerOptions options() const {
    TestServerOptions options;
    options.network.tls = files_;
    options.watch.refresh_period = milliseconds(5);
    return options;
  }

  std::unique_ptr<v1::CogServe::Stub> stub(const TestServer& server,
                                           const PemPair& own = {}) const {
    grpc::SslCredentialsOptions ssl;
    ssl.pem_root_certs = authority_.certificate();
    ssl.pem_cert_chain = own.certificate;
    ssl.pem_private_key = own.key;
    return v1::CogServe::NewStub(server.connect(false, grpc::SslCredentials(ssl)));
  }

  static grpc::Status call(v1::CogServe::Stub& stub, const std::string& authorization = "") {
    return chat(stub, ask("x"), authorization).status;
  }

  // The subject of the certificate that a new connection is shown; empty if none comes about.
  static std::string handshake(int port, int newest_version) {
    const std::unique_ptr<SSL_CTX, decltype(&SSL_CTX_free)> context(
        SSL_CTX_new(TLS_client_method()), SSL_CTX_free);
    // Or OpenSSL's own policy forbids the old ones before the server does.
    SSL_CTX_set_security_level(context.get(), 0);
    SSL_CTX_set_min_proto_version(context.get(), TLS1_VERSION);
    SSL_CTX_set_max_proto_version(context.get(), newest_version);
    SSL_CTX_set_alpn_protos(context.get(), reinterpret_cast<const unsigned char*>("\x02h2"), 3);
    const int plug = ::socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(::connect(plug, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    const std::unique_ptr<SSL, decltype(&SSL_free)> ssl(SSL_new(context.get()), SSL_free);
    SSL_set_fd(ssl.get(), plug);
    char name[64] = "";
    if (SSL_connect(ssl.get()) == 1) {
      X509_NAME_get_text_by_NID(X509_get_subject_name(SSL_get0_peer_certificate(ssl.get())),
                                NID_commonName, name, sizeof(name));
    }
    ::close(plug);
    return name;
  }

  const TemporaryDirectory dir_;
  const Authority authority_{"servers"};
  const Authority clients_{"clients"};
  TlsFiles files_;
};

TEST_F(Tls, those_who_trust_the_authority_call_and_others_cannot) {
  const TestServer server(options());
  EXPECT_TRUE(call(*stub(server)).ok());
  const auto plain = v1::CogServe::NewStub(server.connect());
  EXPECT_EQ(call(*plain).error_code(), grpc::StatusCode::UNAVAILABLE);
  grpc::SslCredentialsOptions elsewhere;
  elsewhere.pem_root_certs = clients_.certificate();
  const auto distrustful =
      v1::CogServe::NewStub(server.connect(false, grpc::SslCredentials(elsewhere)));
  EXPECT_EQ(call(*distrustful).error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(Tls, versions_before_1_2_are_refused) {
  const TestServer server(options());
  const int port = server.port();
  EXPECT_EQ(handshake(port, TLS1_VERSION), "");
  EXPECT_EQ(handshake(port, TLS1_1_VERSION), "");
  EXPECT_EQ(handshake(port, TLS1_2_VERSION), "server-1");
  EXPECT_EQ(handshake(port, TLS1_3_VERSION), "server-1");
}

TEST_F(Tls, where_certificates_are_required_only_those_of_the_authority_open) {
  ask_clients(true);
  const TestServer server(options());
  EXPECT_TRUE(call(*stub(server, clients_.sign("gateway"))).ok());
  EXPECT_EQ(call(*stub(server)).error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(call(*stub(server, authority_.sign("gateway"))).error_code(),
            grpc::StatusCode::UNAVAILABLE);
}

TEST_F(Tls, those_without_a_name_have_a_quota_like_any_other) {
  ask_clients(true);
  TestServerOptions strict = options();
  strict.network.access.quota = {.max_calls = 0, .max_rate = 1};
  const TestServer server(strict);
  const auto nameless = stub(server, clients_.sign(""));
  grpc::Status status;
  for (int i = 0; i < 3; ++i) status = call(*nameless);
  EXPECT_EQ(parse_error(status).reason, "TENANT_QUOTA");
}

TEST_F(Tls, where_certificates_are_optional_they_do_instead_of_a_key) {
  ask_clients(false);
  TestServerOptions with_both = options();
  with_both.network.access.api_keys = {kKey};
  with_both.network.access.certificate_suffices = true;
  const TestServer server(with_both);
  EXPECT_TRUE(call(*stub(server, clients_.sign("gateway"))).ok());
  EXPECT_EQ(parse_error(call(*stub(server))).reason, "UNAUTHENTICATED");
  EXPECT_TRUE(call(*stub(server), kBearer).ok());
  EXPECT_EQ(call(*stub(server, authority_.sign("gateway"))).error_code(),
            grpc::StatusCode::UNAVAILABLE);
}

TEST_F(Tls, of_the_authoritys_certificates_only_those_with_an_allowed_name_open) {
  ask_clients(true);
  TestServerOptions strict = options();
  strict.network.access.allowed_names = {"gateway", "spiffe://example.org/batch"};
  const TestServer server(strict);
  const PemPair allowed[] = {clients_.sign("gateway"), clients_.sign("x", "DNS:x,DNS:gateway"),
                             clients_.sign("x", "DNS:x,URI:spiffe://example.org/batch"),
                             clients_.sign("gateway", "")};
  for (const PemPair& own : allowed) EXPECT_TRUE(call(*stub(server, own)).ok());
  const PemPair refused[] = {
      clients_.sign("intern"),
      clients_.sign(""),
      clients_.sign("gateway", "DNS:intern"),  // its common name does not count
      clients_.sign("gateway", "URI:gateway"),
      clients_.sign("gateway", "email:gateway"),
      clients_.sign("intern", "DNS:spiffe://example.org/batch"),
  };
  for (const PemPair& own : refused) {
    const CallError error = parse_error(call(*stub(server, own)));
    EXPECT_EQ(error.code, grpc::StatusCode::PERMISSION_DENIED);
    EXPECT_EQ(error.reason, "CERTIFICATE_NOT_ALLOWED");
    EXPECT_EQ(error.message, "the client's certificate has no name that may call here");
    EXPECT_EQ(error.retryable, "false");
  }
}

TEST_F(Tls, those_whose_certificates_are_not_allowed_are_made_to_wait) {
  ask_clients(true);
  TestServerOptions strict = options();
  strict.network.access.allowed_names = {"gateway"};
  const TestServer server(strict);
  const auto intern = stub(server, clients_.sign("intern"));
  for (int i = 0; i < Callers::kMaxRefusals; ++i) EXPECT_FALSE(call(*intern).ok());
  const Clock::time_point begin = Clock::now();
  EXPECT_EQ(parse_error(call(*intern)).reason, "CERTIFICATE_NOT_ALLOWED");
  EXPECT_GE(Clock::now() - begin, Callers::kPenalty);
}

TEST_F(Tls, a_new_certificate_is_shown_to_new_connections_and_no_stream_is_cut) {
  TestServer server(options());
  const auto old_connection = stub(server);
  server.engine().pause();
  grpc::ClientContext context;
  const auto running = old_connection->StreamChat(&context, ask("a long answer"));
  server.engine().wait_until_submitted(1);

  install(authority_.sign("server-2"));
  while (handshake(server.port(), TLS1_3_VERSION) != "server-2") {
  }
  server.engine().resume();
  EXPECT_TRUE(read_stream(running.get()).status.ok());
  EXPECT_TRUE(call(*stub(server)).ok());
}

TEST_F(Tls, files_that_do_not_belong_together_leave_the_old_in_force) {
  const TestServer server(options());
  const PemPair next = authority_.sign("server-2");
  dir_.write("cert.pem", next.certificate);  // as between two writes
  for (int i = 0; i < 20; ++i) EXPECT_EQ(handshake(server.port(), TLS1_3_VERSION), "server-1");
  dir_.write("cert.pem", "-----BEGIN CERTIFICATE-----\ngarbage\n");
  for (int i = 0; i < 20; ++i) EXPECT_EQ(handshake(server.port(), TLS1_3_VERSION), "server-1");
  install(next);
  while (handshake(server.port(), TLS1_3_VERSION) != "server-2") {
  }
}

TEST_F(Tls, files_that_cannot_be_used_are_an_error_at_the_start_that_names_them) {
  const auto error = [this] {
    NetworkOptions network;
    network.port = 0;
    network.tls = files_;
    const auto server = GrpcServer::start(network, {}, {});
    return server.ok() ? "" : std::string(server.status().message());
  };
  const PemPair other = authority_.sign("other");
  EXPECT_EQ(error(), "");
  dir_.write("key.pem", other.key);
  EXPECT_THAT(error(), HasSubstr("key.pem: is not the key of the certificate"));
  dir_.write("key.pem", "nothing");
  EXPECT_THAT(error(), HasSubstr("key.pem: holds no private key"));
  install(other);
  files_.client_authorities = dir_.write("clients.pem", "");
  EXPECT_THAT(error(), HasSubstr("clients.pem: holds no certificate"));
  dir_.write("cert.pem", "-----BEGIN CERTIFICATE-----\n");
  EXPECT_THAT(error(), HasSubstr("cert.pem: holds no certificate"));
  files_.key = dir_.path() + "/none.pem";
  EXPECT_THAT(error(), HasSubstr("none.pem: cannot be read"));
}

}  // namespace
}  // namespace cogserve
