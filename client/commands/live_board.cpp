#include "client/commands/live_board.hpp"

#include <iostream>
#include <utility>

namespace cogserve::client {
namespace {

size_t display_width(std::string_view text) {
  size_t width = 0;
  for (const char byte : text) {
    const auto value = static_cast<unsigned char>(byte);
    // The first byte of a character decides: three bytes from U+1100 on are taken as wide.
    if (value < 0x80 || (value >= 0xC0 && value < 0xE1)) width += 1;
    if (value >= 0xE1) width += 2;
  }
  return width;
}

}  // namespace

LiveBoard::LiveBoard(std::vector<std::string> lines, bool terminal)
    : terminal_(terminal), lines_(std::move(lines)), settled_(lines_.size(), false) {
  if (!terminal_) return;
  for (const std::string& line : lines_) std::cout << line << '\n';
  std::cout << std::flush;
}

void LiveBoard::update(size_t line, std::string text) {
  const std::lock_guard lock(mutex_);
  lines_[line] = std::move(text);
  if (terminal_) redraw(line);
}

void LiveBoard::settle(size_t line, std::string text) {
  const std::lock_guard lock(mutex_);
  lines_[line] = std::move(text);
  settled_[line] = true;
  if (terminal_) {
    redraw(line);
  } else {
    print_settled();
  }
}

void LiveBoard::redraw(size_t line) {
  const size_t up = lines_.size() - line;
  std::cout << "\x1b[" << up << "A\r\x1b[K" << lines_[line] << "\x1b[" << up << "B\r" << std::flush;
}

void LiveBoard::print_settled() {
  for (; printed_ < lines_.size() && settled_[printed_]; ++printed_) {
    std::cout << lines_[printed_] << '\n';
  }
  std::cout << std::flush;
}

std::string pad_to(std::string_view text, size_t columns) {
  const size_t width = display_width(text);
  std::string padded(text);
  if (width < columns) padded.append(columns - width, ' ');
  return padded;
}

}  // namespace cogserve::client
