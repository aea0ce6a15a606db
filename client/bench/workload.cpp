#include "client/bench/workload.hpp"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <random>

#include "client/bench/random_text.hpp"
#include "client/commands/files.hpp"

namespace cogserve::client {
namespace {

constexpr size_t kKeptPictures = 8;

constexpr SessionShape kImageQuestion{
    .image = true, .questions_per_image = 1, .turns = 1, .input_tokens = 50, .output_tokens = 128};
constexpr SessionShape kText{.image = false,
                             .questions_per_image = 1,
                             .turns = 1,
                             .input_tokens = 512,
                             .output_tokens = 256};
constexpr SessionShape kManyQuestions{
    .image = true, .questions_per_image = 32, .turns = 1, .input_tokens = 50, .output_tokens = 64};
constexpr SessionShape kTurns{
    .image = true, .questions_per_image = 1, .turns = 6, .input_tokens = 60, .output_tokens = 120};

// Independent generators for the parts of one session.
enum class Stream : uint32_t { kMix, kWords, kPicture };

std::mt19937_64 random_for(uint64_t seed, uint64_t number, Stream stream) {
  std::seed_seq sequence{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32),
                         static_cast<uint32_t>(number), static_cast<uint32_t>(number >> 32),
                         static_cast<uint32_t>(stream)};
  return std::mt19937_64(sequence);
}

}  // namespace

Workload::Workload(Options options) : options_(std::move(options)) {}

Result<Session> Workload::session(uint64_t number) {
  if (!options_.custom.empty()) return custom_session(number);
  const SessionShape& shape = shape_of(number);
  std::mt19937_64 random = random_for(options_.seed, number, Stream::kWords);
  const int words = static_cast<int>(std::lround(shape.input_tokens / options_.tokens_per_word));
  Session session;
  session.output_tokens = shape.output_tokens;
  for (int turn = 0; turn < shape.turns; ++turn) {
    session.questions.push_back(random_text(words, &random));
  }
  if (shape.image) {
    // In a mix the sharing sessions are spread out: as many of one picture come by in a longer
    // stretch.
    double share = 0;
    for (const auto& [other, part] : options_.mix) share += &other == &shape ? part : 0.0;
    const double stretch = std::max(1.0, std::round(shape.questions_per_image / share));
    const bool shared = shape.questions_per_image > 1;
    // Pictures of their own and shared ones are numbered apart.
    session.image =
        shared ? shared_picture(number / static_cast<uint64_t>(stretch) * 2 + 1) : draw(number * 2);
  }
  return session;
}

const SessionShape& Workload::shape_of(uint64_t number) const {
  std::mt19937_64 random = random_for(options_.seed, number, Stream::kMix);
  double place = std::uniform_real_distribution<double>(0.0, 1.0)(random);
  for (const auto& [shape, share] : options_.mix) {
    if (place < share) return shape;
    place -= share;
  }
  return options_.mix.back().first;
}

std::shared_ptr<const std::string> Workload::draw(uint64_t number) const {
  std::mt19937_64 random = random_for(options_.seed, number, Stream::kPicture);
  return std::make_shared<const std::string>(make_picture(options_.picture, random()));
}

std::shared_ptr<const std::string> Workload::shared_picture(uint64_t number) {
  const auto found = std::find_if(shared_.begin(), shared_.end(),
                                  [&](const auto& kept) { return kept.first == number; });
  if (found != shared_.end()) {
    std::rotate(found, std::next(found), shared_.end());
  } else {
    shared_.emplace_back(number, draw(number));
    if (shared_.size() > kKeptPictures) shared_.erase(shared_.begin());
  }
  return shared_.back().second;
}

Result<Session> Workload::custom_session(uint64_t number) {
  const CustomPrompt& prompt = options_.custom[number % options_.custom.size()];
  Session session;
  session.questions = {prompt.question};
  session.output_tokens = options_.mix.front().first.output_tokens;
  if (prompt.image_path.empty()) return session;
  auto& file = files_[prompt.image_path];
  if (file == nullptr) {
    auto bytes = read_file(prompt.image_path);
    if (!bytes.ok()) return bytes.error();
    file = std::make_shared<const std::string>(*std::move(bytes));
  }
  session.image = file;
  return session;
}

std::vector<std::pair<SessionShape, double>> workload_mix(std::string_view name,
                                                          std::optional<int> input_tokens,
                                                          std::optional<int> output_tokens,
                                                          std::optional<int> questions_per_image) {
  std::vector<std::pair<SessionShape, double>> mix;
  if (name == "w1" || name == "random-mm") mix = {{kImageQuestion, 1.0}};
  if (name == "w2" || name == "random") mix = {{kText, 1.0}};
  if (name == "w3") mix = {{kManyQuestions, 1.0}};
  if (name == "w4") mix = {{kTurns, 1.0}};
  if (name == "w5") mix = {{kImageQuestion, 0.5}, {kText, 0.3}, {kManyQuestions, 0.2}};
  for (auto& [shape, share] : mix) {
    shape.input_tokens = input_tokens.value_or(shape.input_tokens);
    shape.output_tokens = output_tokens.value_or(shape.output_tokens);
    if (shape.image) {
      shape.questions_per_image = questions_per_image.value_or(shape.questions_per_image);
    }
  }
  return mix;
}

}  // namespace cogserve::client
