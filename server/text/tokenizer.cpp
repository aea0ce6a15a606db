#include "server/text/tokenizer.hpp"

#include <fstream>
#include <ios>
#include <sstream>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/base/error.hpp"
#include "server/text/tokenizer_file.hpp"
#include "server/text/utf8.hpp"

namespace cogserve::text {
namespace {

// Positions in a piece are 32 bits wide. Requests are limited to far less before they come here.
constexpr size_t kMaxTextBytes = size_t{1} << 30;

absl::string_view key_of(std::string_view bytes) { return {bytes.data(), bytes.size()}; }

}  // namespace

absl::StatusOr<Tokenizer> Tokenizer::load(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  std::ostringstream content;
  if (!stream || !(content << stream.rdbuf())) {
    return absl::NotFoundError(absl::StrCat(path, ": cannot be read"));
  }
  absl::StatusOr<Tokenizer> tokenizer = parse(content.str());
  if (!tokenizer.ok()) {
    const absl::Status& status = tokenizer.status();
    return absl::Status(status.code(), absl::StrCat(path, ": ", status.message()));
  }
  return tokenizer;
}

absl::StatusOr<Tokenizer> Tokenizer::parse(std::string_view json) {
  absl::StatusOr<TokenizerFile> file = parse_tokenizer_file(json);
  if (!file.ok()) return file.status();
  absl::StatusOr<Pretokenizer> pretokenizer = Pretokenizer::create(file->pattern);
  if (!pretokenizer.ok()) return pretokenizer.status();
  return Tokenizer(*file, *std::move(pretokenizer));
}

Tokenizer::Tokenizer(const TokenizerFile& file, Pretokenizer pretokenizer)
    : merger_(file.byte_ids, file.merges), pretokenizer_(std::move(pretokenizer)) {
  store_tokens(file);
  index_tokens(file);
}

void Tokenizer::store_tokens(const TokenizerFile& file) {
  size_t total = 0;
  for (const std::string& token : file.tokens) total += token.size();
  bytes_.reserve(total);
  offsets_.reserve(file.tokens.size() + 1);
  for (const std::string& token : file.tokens) {
    offsets_.push_back(static_cast<uint32_t>(bytes_.size()));
    bytes_.insert(bytes_.end(), token.begin(), token.end());
  }
  offsets_.push_back(static_cast<uint32_t>(bytes_.size()));
  is_special_.resize(file.tokens.size());
  for (const auto& token : file.added) {
    added_.emplace(token.content, token.id);
    if (token.special) {
      is_special_[static_cast<size_t>(token.id)] = true;
    } else {
      (token.normalized ? normalized_finder_ : raw_finder_).add(token.content, token.id);
    }
  }
}

void Tokenizer::index_tokens(const TokenizerFile& file) {
  is_whole_.resize(file.tokens.size());
  index_.reserve(file.tokens.size());
  Merger::Scratch scratch;
  std::vector<int32_t> merged;
  for (size_t i = 0; i < file.tokens.size(); ++i) {
    if (!file.in_vocabulary[i]) continue;
    const auto id = static_cast<int32_t>(i);
    index_.emplace(key_of(token_bytes(id)), id);
    is_whole_[i] = file.ignore_merges;
    if (file.ignore_merges) continue;
    // Most tokens are what merging makes of their bytes: knowing it saves merging them again.
    merged.clear();
    merger_.merge(token_bytes(id), &scratch, &merged);
    is_whole_[i] = merged.size() == 1;
  }
}

absl::StatusOr<std::vector<int32_t>> Tokenizer::encode(std::string_view utf8) const {
  if (utf8.size() > kMaxTextBytes) {
    return invalid_argument(
        "PROMPT_BYTES", "",
        absl::StrCat("text is limited to ", kMaxTextBytes, " bytes, got ", utf8.size()));
  }
  if (const size_t at = find_invalid_utf8(utf8); at != std::string_view::npos) {
    return invalid_argument("TEXT_UTF8", "", absl::StrCat("text is not UTF-8 at byte ", at));
  }
  Encoding encoding;
  encoding.ids.reserve(utf8.size() / 4 + 1);
  const AddedTokenFinder* const finders[] = {&raw_finder_, &normalized_finder_};
  if (absl::Status status = encode_around(finders, utf8, &encoding); !status.ok()) return status;
  return std::move(encoding.ids);
}

// Takes out the tokens of the first finder; what stands between them is encoded without it.
absl::Status Tokenizer::encode_around(std::span<const AddedTokenFinder* const> finders,
                                      std::string_view text, Encoding* encoding) const {
  if (finders.empty()) return encode_plain(text, encoding);
  const AddedTokenFinder& finder = *finders.front();
  size_t begin = 0;
  while (true) {
    const AddedTokenFinder::Found found = finder.find(text, begin);
    absl::Status status =
        encode_around(finders.subspan(1), text.substr(begin, found.offset - begin), encoding);
    if (!status.ok() || found.length == 0) return status;
    encoding->ids.push_back(found.id);
    begin = found.offset + found.length;
  }
}

absl::Status Tokenizer::encode_plain(std::string_view text, Encoding* encoding) const {
  const absl::StatusOr<std::vector<std::string_view>> pieces = pretokenizer_.split(text);
  if (!pieces.ok()) return pieces.status();
  for (const std::string_view piece : *pieces) {
    const auto known = index_.find(key_of(piece));
    if (known != index_.end() && is_whole_[static_cast<size_t>(known->second)]) {
      encoding->ids.push_back(known->second);
    } else {
      merger_.merge(piece, &encoding->scratch, &encoding->ids);
    }
  }
  return absl::OkStatus();
}

std::string Tokenizer::decode(std::span<const int32_t> ids) const {
  std::string text;
  Utf8Repairer repairer;
  for (const int32_t id : ids) {
    if (!is_special(id)) repairer.push(token_bytes(id), &text);
  }
  repairer.finish(&text);
  return text;
}

std::string_view Tokenizer::token_bytes(int32_t id) const {
  if (id < 0 || id >= vocab_size()) return {};
  const auto at = static_cast<size_t>(id);
  return {bytes_.data() + offsets_[at], offsets_[at + 1] - offsets_[at]};
}

bool Tokenizer::is_special(int32_t id) const {
  return id >= 0 && id < vocab_size() && is_special_[static_cast<size_t>(id)];
}

std::optional<int32_t> Tokenizer::token_to_id(std::string_view bytes) const {
  if (const auto added = added_.find(key_of(bytes)); added != added_.end()) return added->second;
  if (const auto known = index_.find(key_of(bytes)); known != index_.end()) return known->second;
  return std::nullopt;
}

}  // namespace cogserve::text
