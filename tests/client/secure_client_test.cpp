// The client library against the real server where calls must say who makes them.
#include <gtest/gtest.h>

#include <future>

#include "client/client.hpp"
#include "client/conversation.hpp"
#include "tests/server/certificates.hpp"
#include "tests/server/test_server.hpp"
#include "tests/temporary_directory.hpp"

namespace cogserve {
namespace {

class SecureClient : public testing::Test {
 protected:
  SecureClient() : server_(options()) {}

  // Over TLS, with a certificate and a key.
  client::ConnectOptions trusted() const {
    const PemPair own = authority_.sign("gateway");
    return {.target = "127.0.0.1:" + std::to_string(server_.port()),
            .tls = true,
            .ca_certificates = authority_.certificate(),
            .certificate = own.certificate,
            .private_key = own.key,
            .api_key = "the-only-key-of-all",
            .retries = 0};
  }

  static client::ChatRequest question() {
    client::ChatRequest request;
    request.messages = client::Conversation().ask("what?").messages();
    request.stopping.max_tokens = 4;
    return request;
  }

  static client::Result<client::Answer> chat(const client::ConnectOptions& options) {
    return client::Client::connect(options)->chat(question());
  }

 private:
  TestServerOptions options() {
    const PemPair own = authority_.sign("server");
    TestServerOptions options;
    options.network.tls = {.certificate = dir_.write("cert.pem", own.certificate),
                           .key = dir_.write("key.pem", own.key),
                           .client_authorities = dir_.write("ca.pem", authority_.certificate())};
    options.network.access.api_keys = {"the-only-key-of-all"};
    return options;
  }

  const TemporaryDirectory dir_;
  const Authority authority_{"everyone's"};
  TestServer server_;
};

TEST_F(SecureClient, brings_its_credentials_with_every_call) {
  auto client = client::Client::connect(trusted());
  ASSERT_TRUE(client.ok());
  EXPECT_TRUE(client->chat(question()).ok());
  EXPECT_TRUE(client->stream_chat(question(), [](const client::Delta&) {}).ok());
  EXPECT_TRUE(client->get_model().ok());
  EXPECT_TRUE(client->health().ok());
  std::promise<bool> done;
  client->start_stream_chat(
      question(), [](const client::Delta&) {},
      [&done](const client::Result<client::Answer>& answer) { done.set_value(answer.ok()); });
  EXPECT_TRUE(done.get_future().get());
}

TEST_F(SecureClient, is_told_when_a_credential_is_missing) {
  client::ConnectOptions keyless = trusted();
  keyless.api_key.clear();
  EXPECT_EQ(chat(keyless).error().code, client::Code::kUnauthenticated);
  EXPECT_EQ(chat(keyless).error().reason, "UNAUTHENTICATED");
  client::ConnectOptions nameless = trusted();
  nameless.certificate.clear();
  nameless.private_key.clear();
  EXPECT_EQ(chat(nameless).error().code, client::Code::kUnavailable);
  client::ConnectOptions distrustful = trusted();
  distrustful.ca_certificates = Authority("somebody else's").certificate();
  EXPECT_EQ(chat(distrustful).error().code, client::Code::kUnavailable);
}

}  // namespace
}  // namespace cogserve
