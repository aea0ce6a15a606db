#include "client/commands/ordered_printer.hpp"

#include <iostream>

namespace cogserve::client {

OrderedPrinter::OrderedPrinter(size_t count) : slots_(count) {}

void OrderedPrinter::write(size_t index, std::string_view text) {
  const std::lock_guard lock(mutex_);
  if (index == current_) {
    std::cout << text << std::flush;
  } else {
    slots_[index].waiting += text;
  }
}

void OrderedPrinter::finish(size_t index) {
  const std::lock_guard lock(mutex_);
  slots_[index].finished = true;
  while (current_ < slots_.size() && slots_[current_].finished) {
    ++current_;
    if (current_ < slots_.size()) std::cout << slots_[current_].waiting;
  }
  std::cout << std::flush;
}

}  // namespace cogserve::client
