// A verb of the command run in this process against a fake server, its streams captured.
#pragma once

#include <gtest/gtest.h>

#include <cstdio>
#include <string>
#include <vector>

#include "tests/client/captured_streams.hpp"
#include "tests/client/fake_server.hpp"
#include "tests/temporary_directory.hpp"

namespace cogserve::client {

struct Outcome {
  int code;
  std::string out;
  std::string err;
};

class CommandsTest : public ::testing::Test {
 protected:
  CommandsTest() {
    // What a terminal would change must not depend on where the test runs.
    EXPECT_NE(std::freopen("/dev/null", "r", stdin), nullptr);
    picture_ = folder_.write("picture.jpg", "JPEG bytes");
  }

  template <typename Verb>
  Outcome run(Verb verb, std::vector<std::string> arguments, const std::string& input = "") {
    arguments.push_back("--server=" + server_.target());
    arguments.push_back("--retries=0");
    return run_as_given(verb, arguments, input);
  }

  template <typename Verb>
  Outcome run_as_given(Verb verb, const std::vector<std::string>& arguments,
                       const std::string& input = "") {
    const CapturedStreams streams(input);
    const int code = verb(arguments);
    return {code, streams.out(), streams.err()};
  }

  Reply refusal(int code, const std::string& reason, const std::string& field) {
    Reply reply;
    reply.code = code;
    reply.message = "wants 0 to 2, got 3";
    reply.reason = reason;
    reply.field = field;
    return reply;
  }

  FakeServer server_;
  TemporaryDirectory folder_;
  std::string picture_;
};

}  // namespace cogserve::client
