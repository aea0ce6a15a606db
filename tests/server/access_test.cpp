// Who may call, and how much: keys, quotas and counters, without a server.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/base/error.hpp"
#include "server/access/callers.hpp"
#include "tests/temporary_directory.hpp"

namespace cogserve {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::HasSubstr;
using testing::Not;

constexpr Clock::time_point kStart{std::chrono::hours(1)};
// Of "s3cret-of-bob", as `sha256sum` says.
constexpr const char* kDigestOfBob =
    "sha256:43350246cd2c22dac6802450eb0c62264f9821748c94c43d13151b3adef57557";

std::string load_error(const std::vector<std::string>& flags, const std::string& path) {
  const auto keys = ApiKeys::load(flags, path);
  return keys.ok() ? "" : std::string(keys.status().message());
}

TEST(ApiKeys, each_key_is_its_owners) {
  const TemporaryDirectory dir;
  const std::string file = dir.write("keys",
                                     "# who may call\n"
                                     "alice s3cret-of-alice-1  # until spring\n"
                                     "\r\n"
                                     "bob\t" +
                                         std::string(kDigestOfBob) +
                                         "\r\n"
                                         "nobodys#key#at#all\n");
  const auto keys = ApiKeys::load({"key-from-the-flag"}, file);
  ASSERT_TRUE(keys.ok()) << keys.status();
  EXPECT_EQ((*keys)->owner_of("s3cret-of-alice-1"), "alice");
  EXPECT_EQ((*keys)->owner_of("s3cret-of-bob"), "bob");
  EXPECT_THAT((*keys)->owner_of("nobodys#key#at#all").value(),
              testing::MatchesRegex("key-[0-9a-f]{8}"));
  EXPECT_THAT((*keys)->owner_of("key-from-the-flag").value(),
              testing::MatchesRegex("key-[0-9a-f]{8}"));
  for (const std::string wrong : {"", "alice", "s3cret-of-alice-", "s3cret-of-alice-1 ", "nobodys",
                                  "S3CRET-OF-ALICE-1", kDigestOfBob}) {
    EXPECT_EQ((*keys)->owner_of(wrong), std::nullopt) << wrong;
  }
  EXPECT_EQ((*keys)->owner_of(std::string(1 << 20, 'x')), std::nullopt);
}

TEST(ApiKeys, a_bad_file_is_an_error_that_names_the_line_and_tells_no_key) {
  const TemporaryDirectory dir;
  const std::pair<const char*, const char*> cases[] = {
      {"a-key-that-is-fine\nalice short\n", "line 2: a key has 16 to 512 characters, got 5"},
      {"a b this-is-long-enough\n", "line 1: a line is a key, or a name and a key"},
      {"al/ice this-is-long-enough\n", "line 1: a name has"},
      {"alice sha256:12ab\n", "line 1: sha256: wants 64 hexadecimal digits"},
      {"caf\xc3\xa9-this-is-long-enough\n", "line 1: a key is of printable ASCII"},
      {"one-key,and-this-is-long-enough\n",
       "line 1: a key is of printable ASCII, without spaces and"},
      {"# none\n", "wants 1 to 1000 keys, got 0"},
  };
  for (const auto& [text, expected] : cases) {
    const std::string error = load_error({}, dir.write("keys", text));
    EXPECT_THAT(error, HasSubstr(expected)) << text;
    EXPECT_THAT(error, Not(HasSubstr("long-enough"))) << text;
  }
  std::string many;
  for (int i = 0; i <= 1000; ++i) many += "key-with-the-number-" + std::to_string(i) + "\n";
  EXPECT_THAT(load_error({}, dir.write("keys", many)), HasSubstr("got 1001"));
  EXPECT_THAT(load_error({}, dir.write("keys", std::string(2 << 20, '#'))), HasSubstr("1 MiB"));
  EXPECT_THAT(load_error({}, dir.path() + "/none"), HasSubstr("none: cannot be read"));
  EXPECT_THAT(load_error({}, dir.path()), HasSubstr("cannot be read"));
  EXPECT_THAT(load_error({""}, ""), HasSubstr("--api-key: a key has 16 to 512 characters, got 0"));
}

TEST(ApiKeys, a_file_that_changes_is_taken_and_one_that_breaks_is_not) {
  const TemporaryDirectory dir;
  const std::string file = dir.write("keys", "alice the-first-key-here\n");
  const auto keys = ApiKeys::load({"key-from-the-flag"}, file);
  ASSERT_TRUE(keys.ok()) << keys.status();
  EXPECT_EQ((*keys)->refresh().value(), false);

  // Each change counts once it has been seen twice.
  dir.write("keys", "alice the-second-key-here\n");
  EXPECT_EQ((*keys)->refresh().value(), false);
  EXPECT_NE((*keys)->owner_of("the-first-key-here"), std::nullopt);
  EXPECT_EQ((*keys)->refresh().value(), true);
  EXPECT_EQ((*keys)->owner_of("the-first-key-here"), std::nullopt);
  EXPECT_EQ((*keys)->owner_of("the-second-key-here"), "alice");
  EXPECT_NE((*keys)->owner_of("key-from-the-flag"), std::nullopt);

  dir.write("keys", "");
  EXPECT_TRUE((*keys)->refresh().ok());
  EXPECT_FALSE((*keys)->refresh().ok());
  EXPECT_TRUE((*keys)->refresh().ok()) << "one error for one change";
  std::filesystem::remove(file);
  EXPECT_TRUE((*keys)->refresh().ok());
  EXPECT_FALSE((*keys)->refresh().ok());
  EXPECT_TRUE((*keys)->refresh().ok());
  EXPECT_EQ((*keys)->owner_of("the-second-key-here"), "alice");

  dir.write("keys", "alice the-third-key-here\n");
  EXPECT_EQ((*keys)->refresh().value(), false);
  EXPECT_EQ((*keys)->refresh().value(), true);
  EXPECT_EQ((*keys)->owner_of("the-third-key-here"), "alice");
}

TEST(CallerQuota, a_caller_has_only_so_many_calls_at_once) {
  CallerQuota quota({.max_calls = 2, .max_rate = 0});
  auto first = quota.take("a", kStart);
  const auto second = quota.take("a", kStart);
  ASSERT_TRUE(first.ok() && second.ok());
  const auto third = quota.take("a", kStart);
  EXPECT_EQ(third.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(error_reason(third.status()), "TENANT_QUOTA");
  EXPECT_EQ(error_limit(third.status()), "2");
  EXPECT_EQ(error_got(third.status()), "3");
  EXPECT_TRUE(error_retry_delay(third.status()).has_value());
  EXPECT_TRUE(quota.take("b", kStart).ok()) << "another caller's are another's";
  {
    const CallerQuota::Place moved = *std::move(first);
    EXPECT_FALSE(quota.take("a", kStart).ok());
  }
  EXPECT_TRUE(quota.take("a", kStart).ok());
}

TEST(CallerQuota, calls_may_come_in_a_burst_and_then_at_the_rate) {
  CallerQuota quota({.max_calls = 0, .max_rate = 4});
  for (int i = 0; i < 8; ++i) EXPECT_TRUE(quota.take("a", kStart).ok()) << i;
  const auto refused = quota.take("a", kStart);
  EXPECT_EQ(error_reason(refused.status()), "TENANT_QUOTA");
  EXPECT_EQ(error_retry_delay(refused.status()), milliseconds(250));
  EXPECT_TRUE(quota.take("a", kStart + milliseconds(250)).ok());
  EXPECT_FALSE(quota.take("a", kStart + milliseconds(499)).ok());
  EXPECT_TRUE(quota.take("a", kStart + milliseconds(500)).ok());
  // However long it was quiet.
  for (int i = 0; i < 8; ++i) EXPECT_TRUE(quota.take("a", kStart + seconds(3600)).ok()) << i;
  EXPECT_FALSE(quota.take("a", kStart + seconds(3600)).ok());
}

TEST(PeerCounter, says_who_overdoes_it_until_its_window_has_passed) {
  PeerCounter counter(3, seconds(10));
  for (int i = 0; i < 3; ++i) counter.count("ipv4:10.0.0.7:1", kStart);
  EXPECT_FALSE(counter.excess("ipv4:10.0.0.7:1", kStart).has_value());
  counter.count("ipv4:10.0.0.7:1", kStart + seconds(1));
  const auto excess = counter.excess("ipv4:10.0.0.7:1", kStart + seconds(2));
  ASSERT_TRUE(excess.has_value());
  EXPECT_EQ(excess->count, 4);
  EXPECT_EQ(excess->left, milliseconds(9000));
  EXPECT_FALSE(counter.excess("ipv4:10.0.0.7:2", kStart).has_value());
  EXPECT_FALSE(counter.excess("ipv4:10.0.0.7:1", kStart + seconds(11)).has_value());
}

TEST(PeerCounter, old_windows_do_not_add_up_and_zero_is_no_limit) {
  PeerCounter counter(3, seconds(10));
  Clock::time_point now = kStart;
  for (int i = 0; i < 100; ++i) {
    counter.count("a", now);
    EXPECT_FALSE(counter.excess("a", now).has_value());
    now += seconds(4);
  }
  PeerCounter endless(0, seconds(10));
  for (int i = 0; i < 1000; ++i) endless.count("a", now);
  EXPECT_FALSE(endless.excess("a", now).has_value());
}

TEST(PeerCounter, those_of_a_unix_socket_cannot_be_told_apart_and_are_not_counted) {
  PeerCounter counter(3, seconds(10));
  for (int i = 0; i < 10; ++i) counter.count("unix:", kStart);
  EXPECT_FALSE(counter.excess("unix:", kStart).has_value());
}

TEST(PeerCounter, a_crowd_of_peers_does_not_hide_one_that_overdoes_it) {
  PeerCounter counter(3, seconds(10));
  for (int i = 0; i < 4; ++i) counter.count("loud", kStart);
  for (int i = 0; i < 20000; ++i) counter.count("peer" + std::to_string(i), kStart);
  EXPECT_TRUE(counter.excess("loud", kStart).has_value());
}

class CallersTest : public testing::Test {
 protected:
  static std::unique_ptr<Callers> with_key(bool certificate_suffices = false) {
    AccessOptions options;
    options.api_keys = {"the-only-key-of-all"};
    options.certificate_suffices = certificate_suffices;
    return Callers::load(options).value();
  }

  static Credentials bearing(std::vector<std::string> authorization,
                             std::optional<std::string> certificate = std::nullopt) {
    return {"ipv4:10.0.0.7:4444", std::move(authorization), std::move(certificate)};
  }

  // A certificate with these names, the first of which it is called by.
  static Credentials showing(const std::vector<std::string>& names,
                             std::vector<std::string> authorization = {}) {
    Credentials credentials = bearing(std::move(authorization), names.front());
    credentials.certificate_names = names;
    return credentials;
  }
};

TEST_F(CallersTest, without_keys_everyone_may_call_and_has_no_quota) {
  const auto callers = Callers::load({}).value();
  EXPECT_EQ(callers->identify(bearing({}), kStart).value(), "");
  EXPECT_EQ(callers->identify(bearing({"Bearer whatever"}), kStart).value(), "");
  std::vector<CallerQuota::Place> places;
  for (int i = 0; i < 1000; ++i) places.push_back(callers->admit("", kStart).value());
  EXPECT_EQ(callers->identify(bearing({}, "gateway"), kStart).value(), "cert:gateway");
  EXPECT_EQ(callers->identify(bearing({}, ""), kStart).value(), "cert:");
}

TEST_F(CallersTest, only_the_key_opens_and_all_else_gets_the_same_words) {
  const auto callers = with_key();
  EXPECT_TRUE(callers->identify(bearing({"Bearer the-only-key-of-all"}), kStart).ok());
  EXPECT_TRUE(callers->identify(bearing({"bEARER the-only-key-of-all"}), kStart).ok());
  const std::string words(callers->identify(bearing({}), kStart).status().message());
  const std::vector<std::string> refused[] = {
      {""},
      {"the-only-key-of-all"},
      {"Basic the-only-key-of-all"},
      {"Bearer"},
      {"Bearer "},
      {"Bearer  the-only-key-of-all"},
      {"Bearer the-only-key-of-all "},
      {"Bearer the-only-key-of-alL"},
      {"Bearer the-only-key-of-all", "Bearer the-only-key-of-all"},
      {"Bearer the-only-key-of-all,Bearer x"}};
  for (const auto& authorization : refused) {
    const auto caller = callers->identify(bearing(authorization), kStart);
    EXPECT_EQ(caller.status().code(), absl::StatusCode::kUnauthenticated);
    EXPECT_EQ(error_reason(caller.status()), "UNAUTHENTICATED");
    EXPECT_EQ(caller.status().message(), words);
  }
}

TEST_F(CallersTest, a_certificate_does_instead_of_a_key_where_that_was_said) {
  EXPECT_FALSE(with_key(false)->identify(bearing({}, "gateway"), kStart).ok());
  EXPECT_EQ(with_key(true)->identify(bearing({}, "gateway"), kStart).value(), "cert:gateway");
  EXPECT_FALSE(with_key(true)->identify(bearing({}), kStart).ok());
}

TEST_F(CallersTest, of_certificates_only_those_with_an_allowed_name_open) {
  AccessOptions options;
  options.allowed_names = {"gateway", "spiffe://example.org/batch"};
  const auto callers = Callers::load(options).value();
  EXPECT_EQ(callers->identify(showing({"gateway"}), kStart).value(), "cert:gateway");
  // The quota is that of the name on the list.
  EXPECT_EQ(callers->identify(showing({"a", "spiffe://example.org/batch"}), kStart).value(),
            "cert:spiffe://example.org/batch");
  const Credentials refused[] = {showing({"intern"}),    showing({"Gateway"}),
                                 showing({"gateway2"}),  showing({"a.gateway"}),
                                 bearing({}, "gateway"), bearing({})};
  for (const Credentials& credentials : refused) {
    const auto caller = callers->identify(credentials, kStart);
    EXPECT_EQ(caller.status().code(), absl::StatusCode::kPermissionDenied);
    EXPECT_EQ(error_reason(caller.status()), "CERTIFICATE_NOT_ALLOWED");
    EXPECT_EQ(caller.status().message(), "the client's certificate has no name that may call here");
  }
}

TEST_F(CallersTest, a_certificate_that_is_not_allowed_leaves_the_key_where_one_does) {
  AccessOptions options;
  options.api_keys = {"the-only-key-of-all"};
  options.allowed_names = {"gateway"};
  const std::vector<std::string> key = {"Bearer the-only-key-of-all"};
  for (const bool optional : {true, false}) {
    options.certificate_suffices = optional;
    const auto callers = Callers::load(options).value();
    EXPECT_EQ(callers->identify(showing({"intern"}, key), kStart).ok(), optional);
    EXPECT_EQ(callers->identify(bearing(key), kStart).ok(), optional);
    EXPECT_TRUE(callers->identify(showing({"gateway"}, key), kStart).ok());
    EXPECT_EQ(callers->identify(showing({"gateway"}), kStart).ok(), optional);
    EXPECT_FALSE(callers->identify(showing({"intern"}), kStart).ok());
  }
}

TEST_F(CallersTest, certificates_that_are_not_allowed_make_a_host_wait) {
  AccessOptions options;
  options.allowed_names = {"gateway"};
  const auto callers = Callers::load(options).value();
  for (int i = 0; i < 10; ++i) EXPECT_FALSE(callers->identify(showing({"intern"}), kStart).ok());
  EXPECT_EQ(callers->penalty("ipv4:10.0.0.7:1", kStart).count(), 0);
  EXPECT_FALSE(callers->identify(showing({"intern"}), kStart).ok());
  EXPECT_EQ(callers->penalty("ipv4:10.0.0.7:1", kStart), milliseconds(1000));
}

TEST_F(CallersTest, a_host_that_guesses_waits_from_its_eleventh_guess_on) {
  const auto callers = with_key();
  for (int i = 0; i < 10; ++i) {
    // Each from a connection of its own.
    const std::string peer = "ipv4:10.0.0.7:" + std::to_string(4000 + i);
    EXPECT_FALSE(callers->identify({peer, {"Bearer guess-" + peer}, {}}, kStart).ok());
    EXPECT_EQ(callers->penalty(peer, kStart).count(), 0) << i;
  }
  EXPECT_FALSE(callers->identify(bearing({"Bearer another-one"}), kStart).ok());
  EXPECT_EQ(callers->penalty("ipv4:10.0.0.7:1", kStart), milliseconds(1000));
  EXPECT_EQ(callers->penalty("ipv4:10.0.0.8:1", kStart).count(), 0);
  EXPECT_EQ(callers->penalty("ipv4:10.0.0.7:1", kStart + seconds(61)).count(), 0);
}

}  // namespace
}  // namespace cogserve
