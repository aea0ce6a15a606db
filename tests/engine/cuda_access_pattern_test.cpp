// How the kernels' accesses suit a GPU's memory, counted by the emulator at the real model's
// widths: a table, and a bound for each kernel. Nothing here is a speed.
#include "tests/engine/cuda_emulator/access_pattern.hpp"

#include <cstdio>
#include <map>
#include <numeric>
#include <string>
#include <vector>

#include "tests/engine/cuda_test_tools.hpp"
#include "tests/engine/random_weight.hpp"

namespace cogserve {
namespace {

using emulator::AccessPattern;
using testing::DeviceMatrix;
using testing::Matrix;

class CudaAccessPattern : public testing::CudaTest {
 protected:
  static void SetUpTestSuite() {
    std::printf("%-22s%-28s%8s%8s%8s   moved beside what is needed\n", "", "kernel", "loads",
                "stores", "shared");
  }

  // What each kernel did in `work`.
  template <typename Work>
  std::map<std::string, AccessPattern> patterns(const std::string& title, const Work& work) {
    backend().synchronize();
    emulator::start_patterns();
    work();
    backend().synchronize();
    const auto all = emulator::take_patterns();
    for (const auto& [kernel, pattern] : all) {
      std::printf("%-22s%-28s%8.2f%8.2f%8.2f\n", title.c_str(), kernel.c_str(),
                  pattern.loads.factor(), pattern.stores.factor(), pattern.shared.factor());
    }
    return all;
  }

  // How much more is moved than if all lay side by side, at most, by any kernel in `work`.
  struct Bounds {
    double loads;
    double stores;
    double shared;
  };
  template <typename Work>
  std::map<std::string, AccessPattern> expect_within(const Bounds& most, const std::string& title,
                                                     const Work& work) {
    const auto all = patterns(title, work);
    EXPECT_FALSE(all.empty()) << title;
    for (const auto& [kernel, pattern] : all) {
      EXPECT_GT(pattern.loads.needed, 0) << title << ": " << kernel;
      EXPECT_GT(pattern.stores.needed, 0) << title << ": " << kernel;
      EXPECT_LE(pattern.loads.factor(), most.loads) << title << ": " << kernel;
      EXPECT_LE(pattern.stores.factor(), most.stores) << title << ": " << kernel;
      EXPECT_LE(pattern.shared.factor(), most.shared) << title << ": " << kernel;
    }
    return all;
  }

  // Of a product that is its own gate, by that kernel alone.
  void expect_gated_within(const Tensor& x, const Weight& weight, const Bounds& most,
                           const std::string& kernel) {
    const Matrix empty(x.rows, weight.out_features);
    const DeviceMatrix scratch = put(empty), y = put(empty);
    const auto all = expect_within(most, "gated, " + std::to_string(x.rows) + " rows", [&] {
      backend().gated_linear(x, weight, weight, scratch.tensor(), y.tensor());
    });
    EXPECT_EQ(all.size(), 1u);
    EXPECT_TRUE(all.contains(kernel)) << kernel;
  }

  Matrix random(int64_t rows, int64_t cols) { return Matrix::random(rows, cols, rows + cols); }
};
INSTANTIATE_TEST_SUITE_P(Dtypes, CudaAccessPattern, ::testing::Values(DType::kBF16),
                         testing::dtype_test_name);

// Weights and inputs are read in whole sectors. Outputs are few for each row and block.
TEST_P(CudaAccessPattern, of_products_of_few_rows) {
  constexpr int64_t kIn = 4096, kOut = 64;
  const Weight dense = *backend().load_weight(
      dense_weight(testing::StoredTensor(random(kOut, kIn), dtype()).host()));
  for (const int64_t rows : {1, 8}) {
    const DeviceMatrix x = put(random(rows, kIn)), y = put(Matrix(rows, kOut));
    expect_within({1.0, rows == 1 ? 1.0 : 4.0, 1.0}, "bf16, " + std::to_string(rows) + " rows",
                  [&] { backend().linear(x.tensor(), dense, nullptr, y.tensor()); });
    expect_gated_within(x.tensor(), dense, {1.0, rows == 1 ? 1.0 : 8.0, 1.0}, "gated_gemv");
  }
  for (const WeightFormat format :
       {WeightFormat::kInt4, WeightFormat::kCodebook4, WeightFormat::kInt8}) {
    const testing::RandomWeight host({.format = format,
                                      .group_size = format == WeightFormat::kInt8 ? kIn : 128,
                                      .dtype = DType::kBF16,
                                      .half_scales = format == WeightFormat::kInt4},
                                     kOut, kIn, 1);
    const Weight weight = *backend().load_weight(host.host());
    for (const int64_t rows : {1, 8, 16, 64, 65}) {  // the last by unpacking
      const DeviceMatrix x = put(random(rows, kIn)), y = put(Matrix(rows, kOut));
      expect_within({1.0, rows == 1 || rows > 64 ? 1.0 : 2.0, 1.0},
                    std::string(format_name(format)) + ", " + std::to_string(rows) + " rows",
                    [&] { backend().linear(x.tensor(), weight, nullptr, y.tensor()); });
      if (rows > 64) continue;
      expect_gated_within(x.tensor(), weight, {1.0, rows == 1 ? 1.0 : 2.0, 1.0},
                          "gated_quantized_matmul");
    }
  }
}

TEST_P(CudaAccessPattern, of_rows) {
  constexpr Bounds kAll = {1.0, 1.0, 1.0};
  // Weights of norms are f32: a lane takes those of its eight elements, a whole sector, in two.
  constexpr Bounds kNorm = {1.67, 1.0, 1.0};
  const DeviceMatrix x = put(random(4, 4096)), y = put(random(4, 4096));
  const Parameter weight = load_vector(random(1, 4096));
  expect_within(kNorm, "rms_norm",
                [&] { backend().rms_norm(x.tensor(), weight.tensor, 1e-5f, y.tensor()); });
  const DeviceMatrix residual = put(random(4, 4096));
  expect_within(kNorm, "add_rms_norm", [&] {
    backend().add_rms_norm(x.tensor(), weight.tensor, 1e-5f, residual.tensor(), y.tensor());
  });
  expect_within(kAll, "add", [&] { backend().add(x.tensor(), y.tensor()); });
  const DeviceMatrix seen = put(random(4, 1792)), sum = put(random(4, 1792));
  const Parameter scale = load_vector(random(1, 1792));
  expect_within(kNorm, "add_layer_norm", [&] {
    backend().add_layer_norm(seen.tensor(), scale.tensor, scale.tensor, 1e-5f, sum.tensor());
  });
  const DeviceMatrix gate = put(random(4, 14336)), up = put(random(4, 14336));
  expect_within(kAll, "silu_mul",
                [&] { backend().silu_mul(gate.tensor(), up.tensor(), up.tensor()); });
  expect_within(kAll, "gelu", [&] { backend().gelu(gate.tensor()); });
  const std::vector<int32_t> ids = {3, 1, 0};
  expect_within(kAll, "embed",
                [&] { backend().embed(x.tensor(), ids, y.tensor().slice_rows(0, 3)); });
  const DeviceMatrix cells = put(random(16, 1792)), merged = put(Matrix(4, 4 * 1792));
  expect_within(kAll, "merge_2x2",
                [&] { backend().merge_2x2(cells.tensor(), 4, merged.tensor()); });
  // Lines of a patch are 14 pixels, and rows of 588 begin where no sector does.
  const DeviceMatrix pixels = put_f32(random(3, 56 * 56)), patches = put(Matrix(16, 588));
  expect_within({1.6, 1.4, 1.0}, "extract_patches",
                [&] { backend().extract_patches(pixels.tensor(), 56, 14, patches.tensor()); });
}

TEST_P(CudaAccessPattern, of_attention) {
  constexpr int kHeads = 32, kKvHeads = 8, kHeadDim = 128, kBlock = 16, kKeys = 512;
  constexpr int kBlocks = kKeys / kBlock;
  const DeviceMatrix keys = put(random(kBlocks * kKvHeads * kBlock, kHeadDim));
  const DeviceMatrix values = put(random(kBlocks * kKvHeads * kBlock, kHeadDim));
  const KvLayer kv{
      keys.tensor().data, values.tensor().data, dtype(), kBlocks, kKvHeads, kBlock, kHeadDim};
  std::vector<int32_t> table(kBlocks);
  std::iota(table.rbegin(), table.rend(), 0);
  const DeviceMatrix qkv = put(random(64, (kHeads + 2 * kKvHeads) * kHeadDim));
  const Tensor q = qkv.tensor().slice_cols(0, kHeads * kHeadDim);
  const DeviceMatrix y = put(Matrix(64, kHeads * kHeadDim));
  const AttentionRun decode{0, 1, kKeys - 1, 0}, prefill{0, 64, kKeys - 64, 0};
  // Queries and outputs pass once, in pieces of 4 bytes a lane; of shared memory, tiles are read
  // and written without conflicts, what a decode split leaves for the merge is not.
  expect_within({1.11, 1.2, 1.3}, "paged, decode", [&] {
    backend().paged_attention(q.slice_rows(0, 1), kHeads, {&decode, 1}, table, kv, 0.1f,
                              y.tensor().slice_rows(0, 1));
  });
  expect_within({1.1, 2.0, 1.0}, "paged, prefill", [&] {
    backend().paged_attention(q, kHeads, {&prefill, 1}, table, kv, 0.1f, y.tensor());
  });
  const DeviceMatrix seen = put(random(192, 3 * 2 * 112)), out = put(Matrix(192, 2 * 112));
  expect_within({1.2, 2.0, 1.0}, "dense",
                [&] { backend().dense_attention(seen.tensor(), 2, 112, 0.1f, out.tensor()); });
  const DeviceMatrix cos = put_f32(random(64, kHeadDim / 2));
  const DeviceMatrix sin = put_f32(random(64, kHeadDim / 2));
  std::vector<int32_t> positions(64);
  std::vector<int64_t> slots(64);
  std::iota(positions.begin(), positions.end(), 0);
  std::iota(slots.begin(), slots.end(), 0);
  expect_within({1.0, 1.0, 1.0}, "rope", [&] {
    backend().rope_and_store_kv(qkv.tensor(), kHeads, positions, slots,
                                {cos.tensor(), sin.tensor()}, kv);
  });
}

TEST_P(CudaAccessPattern, of_a_draw) {
  const DeviceMatrix logits = put_f32(random(1, 128256));
  SampleRow row;
  row.params.temperature = 0.8f;
  row.params.top_p = 0.9f;
  row.params.top_k = 50;
  std::vector<SampledToken> tokens(1);
  // Logits that are alike count in the same bins.
  expect_within({1.0, 1.0, 2.0}, "draw", [&] {
    testing::sample(backend(), logits.tensor(), {&row, 1}, tokens);
  });
}

}  // namespace
}  // namespace cogserve
