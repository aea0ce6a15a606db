#include "command/option_table.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "command/nearest_word.hpp"
#include "command/option_values.hpp"
#include "tests/temporary_directory.hpp"

namespace cogserve {
namespace {

using std::chrono::milliseconds;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

// A variable of the environment for the length of a test.
class Environment {
 public:
  Environment(const char* name, const char* value) : name_(name) { setenv(name, value, 1); }
  ~Environment() { unsetenv(name_); }

 private:
  const char* name_;
};

class OptionTableTest : public testing::Test {
 protected:
  OptionTableTest() {
    table.group("Model");
    table.add("model", &model, "DIR", "Checkpoint directory.");
    table.add("max-num-seqs", &max_num_seqs, "N", "Sequences in one batch.");
    table.add("cache-bytes", &cache_bytes, "SIZE", "Memory of the cache.");
    table.add("seed", &seed, "N", "Seed.");
    table.group("Network");
    table.add("rate", &rate, "X", "Rate.");
    table.add("wait", &wait, "TIME", "Longest wait.");
    table.add("name", &names, "NAME", "A name.");
    table.add("verbose", &verbose, "Say more.");
    table.add_choice("format", &format, {"text", "json"}, "Form of the log.");
  }

  std::string error(const std::vector<std::string>& arguments) {
    const auto result = table.parse(arguments);
    return result.ok() ? std::string("no error") : std::string(result.status().message());
  }

  std::string write_config(const std::string& file, const std::string& text) {
    return directory.write(file, text);
  }

  TemporaryDirectory directory;
  OptionTable table{"serve", "[options]", "Serve a model."};
  std::string model = "demo";
  int max_num_seqs = 64;
  int64_t cache_bytes = 0;
  uint64_t seed = 0;
  double rate = 1.0;
  milliseconds wait{30000};
  std::vector<std::string> names;
  bool verbose = false;
  std::string format = "text";
};

TEST_F(OptionTableTest, keeps_the_defaults_when_nothing_is_given) {
  ASSERT_TRUE(table.parse({}).ok());
  EXPECT_EQ(model, "demo");
  EXPECT_EQ(max_num_seqs, 64);
  EXPECT_EQ(wait, milliseconds(30000));
  EXPECT_FALSE(verbose);
}

TEST_F(OptionTableTest, reads_every_type_in_both_spellings) {
  const auto positional = table.parse({"first",
                                       "--model",
                                       "/m",
                                       "--max-num-seqs=8",
                                       "--cache-bytes",
                                       "1.5GiB",
                                       "--seed",
                                       "18446744073709551615",
                                       "--rate",
                                       "inf",
                                       "--wait=250ms",
                                       "--name",
                                       "a",
                                       "--name",
                                       "b",
                                       "--verbose",
                                       "--format",
                                       "json",
                                       "--",
                                       "--last"});
  ASSERT_TRUE(positional.ok()) << positional.status();
  EXPECT_THAT(*positional, ElementsAre("first", "--last"));
  EXPECT_EQ(model, "/m");
  EXPECT_EQ(max_num_seqs, 8);
  EXPECT_EQ(cache_bytes, int64_t{3} << 29);
  EXPECT_EQ(seed, ~uint64_t{0});
  EXPECT_GT(rate, 1e300);
  EXPECT_EQ(wait, milliseconds(250));
  EXPECT_THAT(names, ElementsAre("a", "b"));
  EXPECT_TRUE(verbose);
  EXPECT_EQ(format, "json");
}

TEST_F(OptionTableTest, prefers_command_line_to_environment_to_file_to_default) {
  const std::string path = write_config(
      "order.yaml", "model: file\nmax-num-seqs: 1\nrate: 4\nverbose: true\nname: [x, y]\n");
  Environment model_env("COGSERVE_MODEL", "environment");
  Environment seqs_env("COGSERVE_MAX_NUM_SEQS", "2");
  Environment names_env("COGSERVE_NAME", "p,q");
  ASSERT_TRUE(table.parse({"--config", path, "--max-num-seqs", "3", "--name", "n"}).ok());
  EXPECT_EQ(model, "environment");
  EXPECT_EQ(max_num_seqs, 3);
  EXPECT_EQ(rate, 4.0);
  EXPECT_TRUE(verbose);
  EXPECT_THAT(names, ElementsAre("n"));
  EXPECT_EQ(format, "text");
}

TEST_F(OptionTableTest, an_empty_variable_is_an_empty_value_and_not_none) {
  Environment empty("COGSERVE_NAME", "");
  ASSERT_TRUE(table.parse({}).ok());
  EXPECT_TRUE(table.given("name"));
  EXPECT_THAT(names, ElementsAre(""));
}

TEST_F(OptionTableTest, clears_a_switch_that_a_weaker_source_has_set) {
  Environment on("COGSERVE_VERBOSE", "1");
  ASSERT_TRUE(table.parse({"--no-verbose"}).ok());
  EXPECT_FALSE(verbose);
}

TEST_F(OptionTableTest, knows_which_flags_were_given) {
  Environment seed_env("COGSERVE_SEED", "0");
  ASSERT_TRUE(table.parse({"--no-verbose"}).ok());
  EXPECT_TRUE(table.given("verbose"));
  EXPECT_TRUE(table.given("seed"));
  EXPECT_FALSE(table.given("model"));
}

TEST_F(OptionTableTest, reads_a_json_file_named_in_the_environment) {
  const std::string path = write_config(
      "plain.json", R"({"model": "j", "max-num-seqs": 5, "verbose": true, "name": ["a", "b"]})");
  Environment config("COGSERVE_CONFIG", path.c_str());
  ASSERT_TRUE(table.parse({}).ok());
  EXPECT_EQ(model, "j");
  EXPECT_EQ(max_num_seqs, 5);
  EXPECT_TRUE(verbose);
  EXPECT_THAT(names, ElementsAre("a", "b"));
}

TEST_F(OptionTableTest, refuses_a_bad_file_and_names_the_place) {
  EXPECT_THAT(error({"--config", "/nonexistent.yaml"}), HasSubstr("cannot be opened"));
  EXPECT_THAT(error({"--config", write_config("key.yaml", "modle: x\n")}),
              HasSubstr("did you mean --model?"));
  EXPECT_THAT(error({"--config", write_config("type.yaml", "max-num-seqs: many\n")}),
              HasSubstr("max-num-seqs in "));
  EXPECT_THAT(error({"--config", write_config("map.yaml", "model: {a: 1}\n")}),
              HasSubstr("plain value"));
  EXPECT_THAT(error({"--config", write_config("list.yaml", "model: [a, b]\n")}),
              HasSubstr("wants one value, got 2"));
  EXPECT_THAT(error({"--config", write_config("empty.yaml", "name: []\n")}),
              HasSubstr("wants at least one value"));
  EXPECT_THAT(error({"--config", write_config("root.yaml", "- a\n")}), HasSubstr("wants a map"));
  EXPECT_THAT(error({"--config", write_config("syntax.yaml", "a: [\n")}), HasSubstr("syntax.yaml"));
  EXPECT_THAT(error({"--config", write_config("syntax.json", "{\"model\": ")}),
              HasSubstr("syntax.json"));
  EXPECT_THAT(error({"--config", write_config("null.json", "{\"model\": null}")}),
              HasSubstr("plain value"));
}

TEST_F(OptionTableTest, refuses_bad_values_and_names_flag_and_value) {
  EXPECT_THAT(error({"--max-num-seqs", "x"}), HasSubstr("--max-num-seqs: wants an integer"));
  EXPECT_THAT(error({"--max-num-seqs", "3000000000"}), HasSubstr("32 bits"));
  EXPECT_THAT(error({"--rate", "nan"}), HasSubstr("--rate: wants a number, got \"nan\""));
  EXPECT_THAT(error({"--wait", "-1s"}), HasSubstr("wants a duration"));
  EXPECT_THAT(error({"--format", "xml"}), HasSubstr("wants one of text, json, got \"xml\""));
  EXPECT_THAT(error({"--verbose=maybe"}), HasSubstr("wants true or false"));
  EXPECT_THAT(error({"--model"}), HasSubstr("--model: needs a value (DIR)"));
  EXPECT_THAT(error({"--model", "--verbose"}), HasSubstr("needs a value"));
  Environment bad("COGSERVE_SEED", "-1");
  EXPECT_THAT(error({}), HasSubstr("COGSERVE_SEED: wants an integer"));
}

TEST_F(OptionTableTest, suggests_the_nearest_flag) {
  EXPECT_THAT(error({"--max-num-sqes", "3"}), HasSubstr("did you mean --max-num-seqs?"));
  EXPECT_THAT(error({"--utterly-different"}), Not(HasSubstr("did you mean")));
  EXPECT_THAT(error({"--no-model"}), HasSubstr("unknown option"));
  EXPECT_THAT(error({"-x"}), HasSubstr("unknown option"));
}

TEST_F(OptionTableTest, help_is_grouped_and_complete) {
  ASSERT_TRUE(table.parse({"--help", "--model", "x"}).ok());
  EXPECT_TRUE(table.help_wanted());
  const std::string help = table.help();
  EXPECT_THAT(help, HasSubstr("cogserve serve: Serve a model."));
  EXPECT_THAT(help, HasSubstr("\nModel:\n  --model DIR\n"));
  EXPECT_THAT(help, HasSubstr("Default: 30s. [COGSERVE_WAIT]"));
  EXPECT_THAT(help, HasSubstr("--[no-]verbose"));
  EXPECT_THAT(help, HasSubstr("--format text|json"));
  EXPECT_THAT(help, HasSubstr("--config FILE"));
  EXPECT_LT(help.find("Model:"), help.find("Network:"));
  EXPECT_LT(help.find("Network:"), help.find("General:"));
}

TEST_F(OptionTableTest, help_with_a_word_shows_only_what_contains_it) {
  ASSERT_TRUE(table.parse({"--help=CACHE"}).ok());
  EXPECT_THAT(table.help(), HasSubstr("--cache-bytes"));
  EXPECT_THAT(table.help(), Not(HasSubstr("--format")));
  ASSERT_TRUE(table.parse({"--help=zzz"}).ok());
  EXPECT_THAT(table.help(), HasSubstr("no option contains \"zzz\""));
}

TEST(OptionValues, integers_take_decimal_and_binary_suffixes) {
  EXPECT_EQ(*parse_integer("8k"), 8000);
  EXPECT_EQ(*parse_integer("8K"), 8192);
  EXPECT_EQ(*parse_integer("8Ki"), 8192);
  EXPECT_EQ(*parse_integer("8KiB"), 8192);
  EXPECT_EQ(*parse_integer("8KB"), 8000);
  EXPECT_EQ(*parse_integer("8kB"), 8000);
  EXPECT_EQ(*parse_integer("2GiB"), int64_t{2} << 30);
  EXPECT_EQ(*parse_integer("1t"), 1000000000000);
  EXPECT_EQ(*parse_integer("0.5k"), 500);
  EXPECT_EQ(*parse_integer("-9223372036854775807"), -9223372036854775807);
  for (const char* text : {"", "k", "1x", "1kk", "--1", "1.3", "0.0001k", "9223372036854775808",
                           "16777216T", "1 k", "+1", "0x10", "1.2.3k", "."}) {
    EXPECT_FALSE(parse_integer(text).ok()) << text;
  }
  EXPECT_FALSE(parse_unsigned("18446744073709551616").ok());
  EXPECT_FALSE(parse_unsigned("-1").ok());
}

TEST(OptionValues, durations_take_their_unit_and_bare_numbers_are_seconds) {
  EXPECT_EQ(*parse_duration("250ms"), milliseconds(250));
  EXPECT_EQ(*parse_duration("30"), milliseconds(30000));
  EXPECT_EQ(*parse_duration("1.5m"), milliseconds(90000));
  EXPECT_EQ(*parse_duration("2h"), milliseconds(7200000));
  EXPECT_EQ(*parse_duration("0"), milliseconds(0));
  for (const char* text : {"", "s", "-1s", "1d", "1e5s", "99999999h"}) {
    EXPECT_FALSE(parse_duration(text).ok()) << text;
  }
}

TEST(OptionValues, a_duration_survives_its_own_text) {
  for (const int64_t ms : {0, 1, 250, 1000, 1500, 60000, 90000, 3600000, 86400000}) {
    EXPECT_EQ(*parse_duration(duration_text(milliseconds(ms))), milliseconds(ms));
  }
}

TEST(NearestWord, finds_typing_slips_and_nothing_else) {
  EXPECT_EQ(nearest_word("sevre", {"serve", "chat"}), "serve");
  EXPECT_EQ(nearest_word("ch", {"serve", "chat"}), "");
  EXPECT_THAT(nearest_word("bananas", {"serve", "chat"}), IsEmpty());
}

}  // namespace
}  // namespace cogserve
