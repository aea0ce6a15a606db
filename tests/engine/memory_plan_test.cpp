#include "engine/memory_plan.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engine/base/error.hpp"
#include "engine/model/dummy_weights.hpp"
#include "engine/run/kv_cache.hpp"
#include "tests/engine/forwarding_backend.hpp"
#include "tests/engine/tiny_checkpoint.hpp"
#include "tests/temporary_directory.hpp"

namespace cogserve {
namespace {

constexpr int64_t kGB = 1'000'000'000;

DeviceTraits cuda_traits() { return device_traits("cuda:0").value(); }

WeightBytes published_weights(const DeviceTraits& traits, const WeightFormats& formats = {}) {
  DummyWeights source(0, DType::kBF16);
  return measure_weights(traits, published_config(), formats, &source).value();
}

MemoryPlan plan_on_card(const EngineConfig& config, int64_t card) {
  const DeviceTraits traits = cuda_traits();
  return plan_memory(published_config(), config, published_weights(traits, config.formats), traits,
                     memory_budget(config, traits, card))
      .value();
}

TEST(MemoryPlan, the_published_model_fits_42_gb_with_room_for_8192_tokens) {
  const MemoryPlan plan = plan_on_card({}, 42 * kGB);
  EXPECT_TRUE(check_plan(plan).ok()) << check_plan(plan);
  // Norms and biases are kept in f32 and in bf16, and either part takes whole pages.
  EXPECT_NEAR(static_cast<double>(plan.decoder_weights + plan.vision_weights), 39006214656.0,
              1e7 + 2.0 * static_cast<double>(cuda_traits().granularity));
  EXPECT_NEAR(static_cast<double>(plan.vision_weights), 8.95e9, 0.1e9 + 0.4e9);
  EXPECT_EQ(plan.block_bytes, 16 * 128 * 1024);
  EXPECT_GE(plan.kv_tokens(), 8192);
  EXPECT_LE(plan.total(), plan.budget);
  EXPECT_GE(plan.max_pictures, 2);
  const int64_t features = plan.picture_places() * int64_t{2306} * 4096 * 2;
  EXPECT_EQ(plan.features, cuda_traits().allocated(features));
  // [9217, 15360] never exists: it alone would be 270 MiB.
  EXPECT_LT(plan.vision_workspace, int64_t{256} << 20);
  EXPECT_GT(plan.decoder_workspace, int64_t{512} * 14336 * 2 * 2);
  EXPECT_LT(plan.decoder_workspace, int64_t{128} << 20);
}

TEST(MemoryPlan, in_int4_the_published_model_fits_16_gb_with_room_for_24576_tokens) {
  EngineConfig config;
  config.formats = parse_weight_formats("int4", "auto", "bf16");
  const MemoryPlan plan = plan_on_card(config, int64_t{16} << 30);
  EXPECT_TRUE(check_plan(plan).ok()) << check_plan(plan);
  EXPECT_GE(plan.kv_tokens(), 24576);
  // With the tower in int8 there is less room, but still some.
  config.formats = parse_weight_formats("int4", "int8", "int8");
  const MemoryPlan int8_tower = plan_on_card(config, int64_t{16} << 30);
  EXPECT_TRUE(check_plan(int8_tower).ok()) << check_plan(int8_tower);
  EXPECT_GE(int8_tower.kv_tokens(), 8192);
  EXPECT_LT(int8_tower.kv_tokens(), plan.kv_tokens());
}

TEST(MemoryPlan, counts_whole_pages_where_memory_comes_in_pages) {
  const int64_t page = cuda_traits().granularity;
  EXPECT_EQ(page, 2 << 20);
  for (const int64_t card : {42 * kGB, 79 * kGB}) {
    for (const size_t kv_bytes : {size_t{0}, size_t{1'000'000'000}}) {
      EngineConfig config;
      config.kv_cache_bytes = kv_bytes;
      const MemoryPlan plan = plan_on_card(config, card);
      EXPECT_TRUE(check_plan(plan).ok()) << check_plan(plan);
      for (const auto& [name, bytes] : plan.parts()) EXPECT_EQ(bytes % page, 0) << name;
    }
  }
}

// A cache whose arrays are no whole pages, nor multiples of what they are aligned to.
TEST(MemoryPlan, holds_what_the_caches_of_odd_shapes_take) {
  ModelConfig model = published_config();
  model.layers = 3;
  model.kv_heads = 1;
  model.hidden = 36;
  model.heads = 6;
  for (const char* device : {"cpu", "cuda:0"}) {
    const DeviceTraits traits = device_traits(device).value();
    for (int block_size = 1; block_size < 9; ++block_size) {
      for (int64_t left = 1'000'000; left < 9'000'000; left += 777'777) {
        const int64_t blocks = KvCache::blocks_in(left, model, block_size, traits.kv);
        const auto bytes = [&](int64_t n) {
          return static_cast<int64_t>(
              KvCache::bytes(model, static_cast<int>(n), block_size, traits.kv));
        };
        EXPECT_LE(bytes(blocks), left) << device << ", blocks of " << block_size;
        EXPECT_GT(bytes(blocks + 1), left) << device << ", blocks of " << block_size;
      }
    }
  }
}

TEST(MemoryPlan, its_parts_add_up_and_stand_in_the_refusal) {
  const MemoryPlan plan = plan_on_card({}, 39 * kGB);
  int64_t sum = 0;
  for (const auto& [name, bytes] : plan.parts()) sum += bytes;
  EXPECT_EQ(plan.total(), sum);
  EXPECT_EQ(plan.num_blocks, 0);
  const absl::Status refused = check_plan(plan);
  EXPECT_EQ(error_reason(refused), "MEMORY_PLAN");
  for (const auto& [name, bytes] : plan.parts()) {
    EXPECT_THAT(std::string(refused.message()), testing::HasSubstr(name));
  }
}

TEST(MemoryPlan, whatever_is_left_is_shared_and_never_exceeded) {
  EngineConfig config;
  config.max_num_seqs = 24;
  int64_t tokens = 0;
  int pictures = 0;
  for (int64_t card = 41 * kGB; card < 142 * kGB; card += 777'777'777) {
    const MemoryPlan plan = plan_on_card(config, card);
    ASSERT_TRUE(check_plan(plan).ok()) << card;
    // No more than a block, or a picture that is not kept, lies idle.
    EXPECT_GT(plan.total() + plan.block_bytes, plan.budget) << card;
    EXPECT_GE(plan.kv_tokens() + 16 * 10, tokens) << card;
    EXPECT_GE(plan.max_pictures, pictures) << card;
    EXPECT_LE(plan.max_pictures, 24) << card;
    tokens = plan.kv_tokens();
    pictures = plan.max_pictures;
  }
  EXPECT_EQ(pictures, 24);
}

TEST(MemoryPlan, a_cap_and_a_share_are_what_the_process_may_use) {
  EngineConfig config;
  const DeviceTraits traits = cuda_traits();
  const int64_t all = memory_budget(config, traits, 80 * kGB);
  EXPECT_EQ(all, 80 * kGB - traits.context_bytes);
  config.gpu_memory = 42 * kGB;
  EXPECT_EQ(memory_budget(config, traits, 80 * kGB), 42 * kGB - traits.context_bytes);
  EXPECT_EQ(memory_budget(config, traits, 16 * kGB), 16 * kGB - traits.context_bytes);
  config.gpu_memory_utilization = 0.5;
  EXPECT_EQ(memory_budget(config, traits, 80 * kGB), 21 * kGB - traits.context_bytes);
  EXPECT_EQ(memory_budget(config, traits, 1000), 0);
}

// A device that is there, with memory in use: by the backend itself, and perhaps by others.
class BusyBackend final : public ForwardingBackend {
 public:
  explicit BusyBackend(int64_t free) : free_(free) {}
  int64_t available_memory() const override { return free_; }
  int64_t total_memory() const override { return 80 * kGB; }

 private:
  const int64_t free_;
};

TEST(MemoryPlan, what_is_free_is_used_but_for_what_the_driver_will_take) {
  const EngineConfig config;
  const DeviceTraits traits = cuda_traits();
  EXPECT_GT(traits.late_context_bytes, 0);
  EXPECT_LT(traits.late_context_bytes, traits.context_bytes);
  EXPECT_EQ(memory_budget(config, traits, BusyBackend(50 * kGB)),
            50 * kGB + traits.own_bytes - traits.late_context_bytes);
  EXPECT_EQ(memory_budget(config, traits, BusyBackend(80 * kGB)),
            memory_budget(config, traits, 80 * kGB));
  EXPECT_EQ(memory_budget(config, traits, BusyBackend(0)), 0);
}

TEST(MemoryPlan, a_cache_of_a_given_size_is_of_that_size) {
  EngineConfig config;
  config.kv_cache_bytes = size_t{4} << 30;
  const MemoryPlan plan = plan_on_card(config, 80 * kGB);
  EXPECT_EQ(plan.kv_cache, (int64_t{4} << 30) + plan.block_bytes);
  EXPECT_EQ(plan.kv_tokens(), 32768);
  EXPECT_EQ(plan.max_pictures, 32768 / 2306 + 1);
  config.kv_cache_bytes = 1000;
  const auto refused = plan_memory(published_config(), config, published_weights(cuda_traits()),
                                   cuda_traits(), 80 * kGB);
  EXPECT_EQ(error_reason(refused.status()), "OPTION_RANGE");
  EXPECT_THAT(std::string(refused.status().message()), testing::HasSubstr("at least 2"));
}

TEST(MemoryPlan, the_cpu_has_a_default_cache_and_f32_activations) {
  const DeviceTraits traits = device_traits("cpu").value();
  const MemoryPlan plan =
      plan_memory(published_config(), {}, published_weights(traits), traits, int64_t{1} << 40)
          .value();
  EXPECT_EQ(plan.kv_cache, (int64_t{256} << 20) + plan.block_bytes);
  EXPECT_EQ(plan.block_bytes, 2 * 16 * 128 * 1024);
  EXPECT_EQ(plan.backend, 0);
}

TEST(MemoryPlan, is_made_from_a_directory_that_has_only_a_config) {
  const TemporaryDirectory directory;
  directory.write("config.json", tiny_config_json());
  EngineConfig config;
  config.model_dir = directory.path();
  config.device = "cuda:0";
  config.gpu_memory = 2 * kGB;
  const auto plan = plan_memory(config);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_TRUE(check_plan(*plan).ok());
  config.device = "tpu";
  EXPECT_EQ(error_reason(plan_memory(config).status()), "UNKNOWN_DEVICE");
}

TEST(MemoryPlan, of_a_quantised_checkpoint_wants_its_files) {
  const TemporaryDirectory directory;
  std::string json = tiny_config_json();
  json.insert(json.find('{') + 1,
              R"("quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128},)");
  directory.write("config.json", json);
  EngineConfig config;
  config.model_dir = directory.path();
  config.gpu_memory = 2 * kGB;
  const absl::Status status = plan_memory(config).status();
  EXPECT_EQ(error_reason(status), "CHECKPOINT_NOT_FOUND");
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("(quant_method 'gptq')"));
}

TEST(MemoryPlan, of_a_device_that_is_here_never_counts_on_more_than_it_has) {
  const TemporaryDirectory directory;
  directory.write("config.json", tiny_config_json());
  EngineConfig config;
  config.model_dir = directory.path();
  const int64_t machine = make_backend("cpu", 1).value()->total_memory();
  config.gpu_memory = 2 * machine;
  EXPECT_EQ(plan_memory(config)->budget, 2 * machine);
  EXPECT_LE(plan_memory_here(config)->budget, machine);
  config.gpu_memory = kGB;
  EXPECT_EQ(plan_memory_here(config)->budget, kGB);
}

TEST(MemoryPlan, a_device_that_is_not_here_needs_a_size) {
  const TemporaryDirectory directory;
  directory.write("config.json", tiny_config_json());
  EngineConfig config;
  config.model_dir = directory.path();
  config.device = "cuda:999";
  const absl::Status status = plan_memory(config).status();
  EXPECT_EQ(error_reason(status), "DEVICE");
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("--gpu-memory"));
}

}  // namespace
}  // namespace cogserve
