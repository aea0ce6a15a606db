#include "client/bench/random_text.hpp"

#include <array>

namespace cogserve::client {
namespace {

// Frequent enough to be one token each in a large vocabulary.
constexpr std::array<const char*, 96> kWords = {
    "about", "after", "again", "air",    "all",   "answer", "back",  "before", "big",   "blue",
    "book",  "box",   "boy",   "bridge", "call",  "car",    "child", "city",   "clear", "close",
    "cold",  "come",  "day",   "deep",   "door",  "down",   "each",  "early",  "earth", "east",
    "end",   "eye",   "face",  "far",    "field", "find",   "fire",  "first",  "food",  "form",
    "four",  "full",  "game",  "girl",   "give",  "glass",  "good",  "great",  "green", "group",
    "half",  "hand",  "hard",  "head",   "hill",  "home",   "horse", "house",  "idea",  "kind",
    "land",  "large", "last",  "late",   "left",  "light",  "line",  "list",   "long",  "money",
    "moon",  "music", "name",  "night",  "north", "number", "paper", "part",   "place", "plan",
    "point", "rain",  "river", "road",   "rock",  "room",   "sea",   "ship",   "side",  "small",
    "sound", "star",  "stone", "street", "table", "tree"};

}  // namespace

std::string random_text(int words, std::mt19937_64* random) {
  std::string text;
  do {
    if (!text.empty()) text += ' ';
    text += kWords[(*random)() % kWords.size()];
  } while (--words > 0);
  return text;
}

}  // namespace cogserve::client
