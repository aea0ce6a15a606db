#include "engine/base/json.hpp"

#include <cstddef>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace cogserve {
namespace {

using nlohmann::json;

// Feeds the parser and tells how far it has read, which the parser itself only says in syntax
// errors. The parser copies its iterators, so the position is shared.
class PositionIterator {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  PositionIterator(const char* at, const char** position) : at_(at), position_(position) {}
  reference operator*() const { return *at_; }
  PositionIterator& operator++() {
    *position_ = ++at_;
    return *this;
  }
  PositionIterator operator++(int) {
    PositionIterator before = *this;
    ++*this;
    return before;
  }
  bool operator==(const PositionIterator& other) const { return at_ == other.at_; }
  bool operator!=(const PositionIterator& other) const { return at_ != other.at_; }

 private:
  const char* at_;
  const char** position_;
};

// Builds the document from parser events; an event that returns false ends the parse.
class DocumentBuilder : public nlohmann::json_sax<json> {
 public:
  DocumentBuilder(std::string_view text, const char* const* position, int max_depth)
      : text_(text), position_(position), max_depth_(max_depth) {}

  bool null() override { return add(nullptr) != nullptr; }
  bool boolean(bool value) override { return add(value) != nullptr; }
  bool number_integer(number_integer_t value) override { return add(value) != nullptr; }
  bool number_unsigned(number_unsigned_t value) override { return add(value) != nullptr; }
  bool number_float(number_float_t value, const string_t&) override {
    return add(value) != nullptr;
  }
  bool string(string_t& value) override { return add(std::move(value)) != nullptr; }
  bool binary(binary_t& value) override { return add(json::binary(std::move(value))) != nullptr; }
  bool key(string_t& value) override {
    key_ = std::move(value);
    return true;
  }
  bool start_object(std::size_t) override { return open(json::object()); }
  bool start_array(std::size_t) override { return open(json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception& error) override {
    return fail(position, error.what());
  }

  const absl::Status& status() const { return status_; }
  json take() { return std::move(root_); }

 private:
  bool fail(std::size_t offset, const std::string& what) {
    status_ = absl::InvalidArgumentError(absl::StrCat("invalid JSON at byte ", offset, ": ", what));
    return false;
  }
  std::size_t offset() const { return static_cast<std::size_t>(*position_ - text_.data()); }

  json* add(json value) {
    if (open_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    json& parent = *open_.back();
    if (parent.is_array()) return &parent.emplace_back(std::move(value));
    const auto [entry, inserted] = parent.emplace(key_, std::move(value));
    if (!inserted) {
      fail(offset(), absl::StrCat("key \"", key_, "\" occurs twice in one object"));
      return nullptr;
    }
    return &entry.value();
  }

  bool open(json container) {
    if (open_.size() >= static_cast<std::size_t>(max_depth_)) {
      return fail(offset(), absl::StrCat("nested deeper than ", max_depth_, " levels"));
    }
    json* const added = add(std::move(container));
    if (added == nullptr) return false;
    open_.push_back(added);
    return true;
  }

  bool close() {
    open_.pop_back();
    return true;
  }

  std::string_view text_;
  const char* const* position_;
  int max_depth_;
  json root_;
  // Containers not closed yet, outermost first. Their addresses hold: a container only gains
  // siblings after it is closed.
  std::vector<json*> open_;
  std::string key_;
  absl::Status status_;
};

}  // namespace

absl::StatusOr<json> parse_json(std::string_view text, int max_depth) {
  const char* position = text.data();
  DocumentBuilder builder(text, &position, max_depth);
  const PositionIterator begin(text.data(), &position);
  const PositionIterator end(text.data() + text.size(), &position);
  if (!json::sax_parse(begin, end, &builder)) return builder.status();
  return builder.take();
}

}  // namespace cogserve
