#include "server/text/unicode_classes.hpp"

#include <algorithm>
#include <map>

namespace cogserve::text {

const UnicodeClasses& UnicodeClasses::get() {
  static const UnicodeClasses classes;
  return classes;
}

UnicodeClasses::UnicodeClasses() {
  std::vector<CharClass> flat(kPages * kPageSize, CharClass::kOther);
  const auto fill = [&flat](std::span<const CodeRange> ranges, CharClass value) {
    for (const CodeRange& range : ranges) {
      std::fill(flat.begin() + range.first, flat.begin() + range.last + 1, value);
    }
  };
  fill(letter_ranges(), CharClass::kLetter);
  fill(number_ranges(), CharClass::kNumber);
  fill(space_ranges(), CharClass::kSpace);
  flat['\r'] = flat['\n'] = CharClass::kNewline;

  std::map<std::vector<CharClass>, uint16_t> known;
  for (size_t page = 0; page < kPages; ++page) {
    const auto first = flat.begin() + static_cast<std::ptrdiff_t>(page * kPageSize);
    const std::vector<CharClass> content(first, first + kPageSize);
    const auto [entry, inserted] = known.emplace(content, static_cast<uint16_t>(known.size()));
    if (inserted) classes_.insert(classes_.end(), content.begin(), content.end());
    pages_[page] = entry->second;
  }
}

}  // namespace cogserve::text
