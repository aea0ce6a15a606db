// stdin, stdout and stderr of the verbs under test, while an object lives.
#pragma once

#include <iostream>
#include <sstream>
#include <string>

namespace cogserve::client {

class CapturedStreams {
 public:
  explicit CapturedStreams(const std::string& input = "")
      : in_(input),
        old_in_(std::cin.rdbuf(in_.rdbuf())),
        old_out_(std::cout.rdbuf(out_.rdbuf())),
        old_err_(std::cerr.rdbuf(err_.rdbuf())) {
    std::cin.clear();
  }
  ~CapturedStreams() {
    std::cin.rdbuf(old_in_);
    std::cout.rdbuf(old_out_);
    std::cerr.rdbuf(old_err_);
  }
  CapturedStreams(const CapturedStreams&) = delete;
  CapturedStreams& operator=(const CapturedStreams&) = delete;

  std::string out() const { return out_.str(); }
  std::string err() const { return err_.str(); }

 private:
  std::istringstream in_;
  std::ostringstream out_;
  std::ostringstream err_;
  std::streambuf* old_in_;
  std::streambuf* old_out_;
  std::streambuf* old_err_;
};

}  // namespace cogserve::client
