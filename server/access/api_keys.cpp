#include "server/access/api_keys.hpp"

#include <openssl/crypto.h>
#include <openssl/evp.h>

#include <algorithm>
#include <new>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace cogserve {
namespace {

constexpr std::string_view kDigestPrefix = "sha256:";
constexpr size_t kMaxNameBytes = 64;

bool is_name(std::string_view text) {
  return !text.empty() && text.size() <= kMaxNameBytes &&
         std::all_of(text.begin(), text.end(), [](unsigned char c) {
           return absl::ascii_isalnum(c) || c == '.' || c == '_' || c == '-';
         });
}

std::string hex(const uint8_t* bytes, size_t count) {
  return absl::BytesToHexString({reinterpret_cast<const char*>(bytes), count});
}

}  // namespace

ApiKeys::ApiKeys(std::vector<Entry> flags, const std::string& path)
    : path_(path), from_flags_(std::move(flags)), files_({path}), entries_(from_flags_) {}

absl::StatusOr<std::unique_ptr<ApiKeys>> ApiKeys::load(const std::vector<std::string>& flags,
                                                       const std::string& path) {
  std::vector<Entry> entries;
  for (const std::string& flag : flags) {
    const absl::StatusOr<Digest> digest = parse_key(flag);
    if (!digest.ok()) {
      return absl::InvalidArgumentError(absl::StrCat("--api-key: ", digest.status().message()));
    }
    entries.push_back({"key-" + hex(digest->data(), 4), *digest});
  }
  std::unique_ptr<ApiKeys> keys(new ApiKeys(std::move(entries), path));
  if (const auto taken = keys->refresh(); !taken.ok()) return taken.status();
  return keys;
}

ApiKeys::Digest ApiKeys::digest_of(std::string_view key) {
  Digest digest;
  if (EVP_Digest(key.data(), key.size(), digest.data(), nullptr, EVP_sha256(), nullptr) != 1) {
    throw std::bad_alloc();
  }
  return digest;
}

absl::StatusOr<ApiKeys::Digest> ApiKeys::parse_key(std::string_view text) {
  if (text.substr(0, kDigestPrefix.size()) == kDigestPrefix) {
    const std::string_view digits = text.substr(kDigestPrefix.size());
    Digest digest;
    if (digits.size() != 2 * digest.size() ||
        !std::all_of(digits.begin(), digits.end(), absl::ascii_isxdigit)) {
      return absl::InvalidArgumentError("sha256: wants 64 hexadecimal digits");
    }
    const std::string bytes = absl::HexStringToBytes({digits.data(), digits.size()});
    std::copy(bytes.begin(), bytes.end(), digest.begin());
    return digest;
  }
  if (text.size() < kMinKeyBytes || text.size() > kMaxKeyBytes) {
    return absl::InvalidArgumentError(absl::StrCat("a key has ", kMinKeyBytes, " to ", kMaxKeyBytes,
                                                   " characters, got ", text.size()));
  }
  const auto plain = [](char c) { return absl::ascii_isgraph(c) && c != ','; };  // it parts lists
  if (!std::all_of(text.begin(), text.end(), plain)) {
    return absl::InvalidArgumentError("a key is of printable ASCII, without spaces and commas");
  }
  return digest_of(text);
}

absl::Status ApiKeys::parse_line(std::string_view line, std::vector<Entry>* entries) {
  std::vector<std::string> words = absl::StrSplit(absl::string_view(line.data(), line.size()),
                                                  absl::ByAnyChar(" \t\r"), absl::SkipEmpty());
  // Only a word that begins with it: a key may hold one.
  words.erase(std::find_if(words.begin(), words.end(),
                           [](const std::string& word) { return word.front() == '#'; }),
              words.end());
  if (words.empty()) return absl::OkStatus();
  if (words.size() > 2) {
    return absl::InvalidArgumentError("a line is a key, or a name and a key");
  }
  const absl::StatusOr<Digest> digest = parse_key(words.back());
  if (!digest.ok()) return digest.status();
  if (words.size() == 2 && !is_name(words.front())) {
    return absl::InvalidArgumentError(
        absl::StrCat("a name has 1 to ", kMaxNameBytes, " of A-Z, a-z, 0-9, '.', '_' and '-'"));
  }
  entries->push_back(
      {words.size() == 2 ? words.front() : "key-" + hex(digest->data(), 4), *digest});
  return absl::OkStatus();
}

absl::StatusOr<std::vector<ApiKeys::Entry>> ApiKeys::parse_file(const std::string& path,
                                                                std::string_view text) {
  std::vector<Entry> entries;
  int number = 0;
  for (const absl::string_view line :
       absl::StrSplit(absl::string_view(text.data(), text.size()), '\n')) {
    ++number;
    if (absl::Status status = parse_line({line.data(), line.size()}, &entries); !status.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat("--api-key-file ", path, " line ", number, ": ", status.message()));
    }
  }
  if (entries.empty() || entries.size() > kMaxKeys) {
    return absl::InvalidArgumentError(absl::StrCat("--api-key-file ", path, ": wants 1 to ",
                                                   kMaxKeys, " keys, got ", entries.size()));
  }
  return entries;
}

std::optional<std::string> ApiKeys::owner_of(std::string_view key) const {
  if (key.size() > kMaxKeyBytes) return std::nullopt;
  const Digest digest = digest_of(key);
  const Entry* owner = nullptr;
  const std::lock_guard lock(mutex_);
  for (const Entry& entry : entries_) {  // all of them: where one is found must not be timed
    const bool same = CRYPTO_memcmp(entry.digest.data(), digest.data(), digest.size()) == 0;
    owner = same ? &entry : owner;
  }
  if (owner == nullptr) return std::nullopt;
  return owner->name;
}

absl::StatusOr<bool> ApiKeys::refresh() {
  if (path_.empty()) return false;
  const auto contents = files_.look();
  if (!contents.ok()) return contents.status();
  if (!contents->has_value()) return false;
  const absl::StatusOr<std::vector<Entry>> from_file = parse_file(path_, (*contents)->front());
  if (!from_file.ok()) return from_file.status();
  std::vector<Entry> entries = from_flags_;
  entries.insert(entries.end(), from_file->begin(), from_file->end());
  const std::lock_guard lock(mutex_);
  entries_.swap(entries);
  return true;
}

bool ApiKeys::empty() const {
  const std::lock_guard lock(mutex_);
  return entries_.empty();
}

}  // namespace cogserve
