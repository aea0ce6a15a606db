#include "server/options.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

namespace cogserve {
namespace {

using std::chrono::milliseconds;
using testing::ElementsAre;
using testing::HasSubstr;

struct Parsed {
  ServeOptions options;
  std::string error;
};

Parsed parse(const std::vector<std::string>& arguments) {
  Parsed parsed;
  ServeFlags flags(&parsed.options);
  absl::Status status = flags.table().parse(arguments).status();
  if (status.ok()) status = flags.complete();
  parsed.error = std::string(status.message());
  return parsed;
}

TEST(ServeFlags, without_flags_it_serves_the_demo_model_on_loopback) {
  const Parsed parsed = parse({});
  EXPECT_EQ(parsed.error, "");
  EXPECT_TRUE(std::filesystem::exists(parsed.options.engine.model_dir + "/config.json"));
  EXPECT_THAT(parsed.options.served_model_names, ElementsAre("demo"));
  EXPECT_EQ(parsed.options.network.address(), "127.0.0.1:8001");
  EXPECT_TRUE(parsed.options.network.reflection);
  EXPECT_EQ(parsed.options.chat_template, "");
}

TEST(ServeFlags, what_may_be_used_of_a_gpu_is_a_size_and_a_share) {
  const Parsed parsed = parse({"--device", "cuda:0", "--gpu-memory", "42GB",
                               "--gpu-memory-utilization", "0.9", "--max-itl-ms", "80"});
  EXPECT_EQ(parsed.error, "");
  EXPECT_EQ(parsed.options.engine.gpu_memory, 42'000'000'000);
  EXPECT_EQ(parsed.options.engine.gpu_memory_utilization, 0.9);
  EXPECT_EQ(parsed.options.engine.kv_cache_bytes, 0u);
  EXPECT_EQ(parsed.options.engine.max_itl, milliseconds(80));
  for (const char* share : {"0", "-1", "1.01", "inf"}) {
    EXPECT_THAT(parse({"--gpu-memory-utilization", share}).error,
                HasSubstr("--gpu-memory-utilization: wants more than 0 and at most 1"));
  }
  EXPECT_THAT(parse({"--gpu-memory", "-5"}).error, HasSubstr("--gpu-memory: wants 0.."));
  EXPECT_THAT(parse({"--max-itl-ms", "-5"}).error, HasSubstr("--max-itl-ms: wants 0..60000"));
}

TEST(ServeFlags, the_tower_follows_the_decoder_unless_told) {
  constexpr WeightFormat kDense = WeightFormat::kDense;
  constexpr WeightFormat kInt8 = WeightFormat::kInt8;
  constexpr WeightFormat kInt4 = WeightFormat::kInt4;
  const auto formats = [](const std::vector<std::string>& arguments) {
    const Parsed parsed = parse(arguments);
    EXPECT_EQ(parsed.error, "");
    return parsed.options.engine.formats;
  };
  EXPECT_EQ(formats({}), (WeightFormats{kDense, kDense, kDense}));
  EXPECT_EQ(formats({"--quantization", "int4"}), (WeightFormats{kInt4, kInt4, kDense}));
  EXPECT_EQ(formats({"--quantization", "int4", "--vision-dtype", "bf16"}),
            (WeightFormats{kInt4, kDense, kDense}));
  EXPECT_EQ(
      formats({"--quantization", "int4", "--vision-dtype", "int8", "--lm-head-dtype", "int8"}),
      (WeightFormats{kInt4, kInt8, kInt8}));
  EXPECT_EQ(formats({"--vision-dtype", "int8"}), (WeightFormats{kDense, kInt8, kDense}));
  EXPECT_THAT(parse({"--quantization", "int3"}).error, HasSubstr("none, int4"));
  EXPECT_THAT(parse({"--lm-head-dtype", "int4"}).error, HasSubstr("bf16, int8"));
}

TEST(ServeFlags, products_are_in_bf16_only_where_that_is_asked_for) {
  EXPECT_FALSE(parse({}).options.engine.bf16_products);
  EXPECT_FALSE(parse({"--dtype", "auto"}).options.engine.bf16_products);
  EXPECT_TRUE(parse({"--dtype", "bfloat16"}).options.engine.bf16_products);
  EXPECT_THAT(parse({"--dtype", "float16"}).error, HasSubstr("auto, bfloat16"));
}

TEST(ServeFlags, every_value_lands_where_it_belongs) {
  const Parsed parsed = parse({"--model",
                               "/models/cog/",
                               "--rope-dtype",
                               "fp32",
                               "--load-format",
                               "dummy",
                               "--kv-cache-memory-bytes",
                               "2GiB",
                               "--max-num-seqs",
                               "7",
                               "--max-queue-time",
                               "5s",
                               "--max-image-bytes",
                               "1MiB",
                               "--template",
                               "vqa",
                               "--grpc-port",
                               "0",
                               "--max-request-time",
                               "1m",
                               "--shutdown-timeout",
                               "3s",
                               "--no-warmup",
                               "--served-model-name",
                               "a",
                               "--served-model-name",
                               "b",
                               "--no-enable-reflection"});
  EXPECT_EQ(parsed.error, "");
  EXPECT_EQ(parsed.options.engine.model_dir, "/models/cog/");
  EXPECT_EQ(parsed.options.engine.rope_dtype, RopeDtype::kF32);
  EXPECT_EQ(parsed.options.engine.load_format, LoadFormat::kDummy);
  EXPECT_EQ(parsed.options.engine.kv_cache_bytes, size_t{2} << 30);
  EXPECT_EQ(parsed.options.engine.max_num_seqs, 7);
  EXPECT_EQ(parsed.options.engine.max_queue_time, milliseconds(5000));
  EXPECT_EQ(parsed.options.limits.image.max_encoded_bytes, size_t{1} << 20);
  EXPECT_EQ(parsed.options.chat_template, "vqa");
  EXPECT_EQ(parsed.options.chat.max_request_time, milliseconds(60000));
  EXPECT_EQ(parsed.options.shutdown_timeout, milliseconds(3000));
  EXPECT_FALSE(parsed.options.warmup);
  EXPECT_THAT(parsed.options.served_model_names, ElementsAre("a", "b"));
  EXPECT_FALSE(parsed.options.network.reflection);
}

TEST(ServeFlags, a_model_without_a_name_is_called_after_its_directory) {
  EXPECT_THAT(parse({"--model", "/models/cog/"}).options.served_model_names, ElementsAre("cog"));
  EXPECT_THAT(parse({"--model", "/models/cog"}).options.served_model_names, ElementsAre("cog"));
}

TEST(ServeFlags, an_address_that_others_reach_needs_tls_or_insecure) {
  EXPECT_EQ(parse({"--host", "example.org", "--insecure"}).error, "");
  for (const char* host : {"0.0.0.0", "::", "[::]", "10.0.0.7"}) {
    EXPECT_THAT(parse({"--host", host}).error, HasSubstr("--host")) << host;
    EXPECT_EQ(parse({"--host", host, "--insecure"}).error, "") << host;
    const std::vector<std::string> tls = {"--host",        host, "--ssl-certfile", "c",
                                          "--ssl-keyfile", "k"};
    EXPECT_THAT(parse(tls).error, HasSubstr("--api-key-file or --ssl-ca-certs")) << host;
    for (const char* flag : {"--api-key", "--api-key-file", "--ssl-ca-certs"}) {
      std::vector<std::string> arguments = tls;
      arguments.insert(arguments.end(), {flag, "what-the-flag-says"});
      const Parsed known = parse(arguments);
      EXPECT_EQ(known.error, "") << host << flag;
      EXPECT_FALSE(known.options.network.reflection) << host;
    }
    EXPECT_THAT(parse({"--host", host, "--api-key", "a-key-of-some-length"}).error,
                HasSubstr("--host"));
  }
  EXPECT_TRUE(
      parse({"--host", "0.0.0.0", "--insecure", "--enable-reflection"}).options.network.reflection);
  for (const char* host : {"127.0.0.1", "localhost", "::1", "127.1.2.3"}) {
    EXPECT_EQ(parse({"--host", host}).error, "") << host;
  }
  EXPECT_EQ(parse({"--uds", "/run/x.sock", "--host", "0.0.0.0"}).error, "");
}

TEST(ServeFlags, flags_that_contradict_each_other_are_refused) {
  EXPECT_THAT(parse({"--ssl-certfile", "c"}).error, HasSubstr("--ssl-keyfile"));
  EXPECT_THAT(parse({"--ssl-keyfile", "k"}).error, HasSubstr("--ssl-keyfile"));
  EXPECT_THAT(parse({"--ssl-ca-certs", "a"}).error, HasSubstr("--ssl-ca-certs"));
  EXPECT_THAT(parse({"--ssl-cert-reqs", "required"}).error, HasSubstr("--ssl-cert-reqs"));
  const std::vector<std::string> tls = {"--ssl-certfile", "c", "--ssl-keyfile", "k"};
  const auto with = [&tls](std::vector<std::string> more) {
    more.insert(more.end(), tls.begin(), tls.end());
    return parse(more).error;
  };
  EXPECT_THAT(with({"--ssl-ca-certs", "a", "--ssl-cert-reqs", "optional"}), HasSubstr("--api-key"));
  EXPECT_THAT(with({"--ssl-allowed-name", "gateway"}),
              HasSubstr("--ssl-allowed-name: wants --ssl-ca-certs"));
  EXPECT_THAT(with({"--ssl-ca-certs", "a", "--ssl-allowed-name", ""}),
              HasSubstr("--ssl-allowed-name: wants a name, got nothing"));
  EXPECT_THAT(with({"--host", "example.org"}), HasSubstr("wants an address with TLS, not a name"));
  EXPECT_EQ(with({"--host", "localhost"}), "");
  EXPECT_THAT(parse({"--api-key-file", ""}).error, HasSubstr("--api-key-file: wants a file"));
  EXPECT_THAT(parse({"--max-request-time", "0"}).error, HasSubstr("--max-request-time"));
  EXPECT_THAT(parse({"--max-calls-per-caller", "-1"}).error, HasSubstr("--max-calls-per-caller"));
  EXPECT_THAT(parse({"--grpc-port", "65536"}).error, HasSubstr("0..65535, got 65536"));
  EXPECT_THAT(parse({"--max-num-seqs", "0"}).error, HasSubstr("--max-num-seqs"));
  EXPECT_THAT(parse({"--max-image-bytes", "33MiB"}).error, HasSubstr("--max-image-bytes"));
  EXPECT_THAT(parse({"--rope-dtype", "fp16"}).error, HasSubstr("auto, bf16, fp32"));
  EXPECT_THAT(parse({"--max-queue-time", "0"}).error, HasSubstr("--max-queue-time"));
}

TEST(ServeFlags, certificates_may_have_one_of_several_allowed_names) {
  const Parsed parsed =
      parse({"--ssl-certfile", "c", "--ssl-keyfile", "k", "--ssl-ca-certs", "a",
             "--ssl-allowed-name", "gateway", "--ssl-allowed-name", "spiffe://example.org/batch"});
  EXPECT_EQ(parsed.error, "");
  EXPECT_THAT(parsed.options.network.access.allowed_names,
              ElementsAre("gateway", "spiffe://example.org/batch"));
}

TEST(ServeFlags, an_empty_model_is_not_the_demo_model) {
  EXPECT_THAT(parse({"--model", ""}).error, HasSubstr("--model"));
  EXPECT_THAT(parse({}).options.engine.model_dir, HasSubstr("demo"));
}

TEST(ServeFlags, an_old_connection_leaves_a_call_all_the_time_it_may_take) {
  const auto grace = [](const Parsed& parsed) {
    EXPECT_EQ(parsed.error, "");
    return parsed.options.network.max_connection_age_grace;
  };
  EXPECT_EQ(grace(parse({})), std::chrono::seconds(320));
  EXPECT_EQ(grace(parse({"--max-request-time", "1h"})), std::chrono::seconds(3620));
  EXPECT_EQ(grace(parse({"--grpc-max-connection-age-grace", "10m"})), std::chrono::seconds(600));
  EXPECT_THAT(parse({"--grpc-max-connection-age-grace", "1m"}).error,
              HasSubstr("--grpc-max-connection-age-grace"));
}

TEST(NetworkOptions, writes_addresses_of_every_kind) {
  NetworkOptions network;
  network.host = "::1";
  network.port = 5;
  EXPECT_EQ(network.address(), "[::1]:5");
  network.host = "[::1]";
  EXPECT_EQ(network.address(), "[::1]:5");
  network.uds = "/run/cogserve.sock";
  EXPECT_EQ(network.address(), "unix:/run/cogserve.sock");
}

}  // namespace
}  // namespace cogserve
