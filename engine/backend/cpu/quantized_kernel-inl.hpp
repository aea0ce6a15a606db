// The micro-kernel of quantised products: a few rows of int8 codes times one panel. Compiled once
// for each target.
//
// For each block: products of codes are summed in integers, exactly; the sum, as f32, times
// (the weight's scale * x's scale) is added to the row's result by one fused add. Blocks come in
// ascending order. So a result is the same whatever the number of rows and the vector width.
//
// 32-bit integers never overflow: a block sums at most 128 * 127 * 127 < 2^24, which f32 holds too.
#if defined(COGSERVE_CPU_QUANTIZED_KERNEL_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef COGSERVE_CPU_QUANTIZED_KERNEL_INL
#undef COGSERVE_CPU_QUANTIZED_KERNEL_INL
#else
#define COGSERVE_CPU_QUANTIZED_KERNEL_INL
#endif

#include <cmath>
#include <cstring>

#include "engine/backend/cpu/quantized_panel.hpp"
#include "engine/backend/cpu/simd-inl.hpp"
#include "hwy/cache_control.h"

// Highway 1.0 has no products of bytes, so x86 calls its instructions by name.
#undef COGSERVE_BYTE_PRODUCTS
#undef COGSERVE_BYTE_DOT
#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL
#define COGSERVE_BYTE_PRODUCTS
#endif
#if HWY_TARGET == HWY_AVX3_DL
#define COGSERVE_BYTE_DOT
#endif

HWY_BEFORE_NAMESPACE();
namespace cogserve::cpu::HWY_NAMESPACE {

// Some blocks of one panel and of one row tile.
struct BlockProduct {
  const std::byte* records;  // of the weight, one after the other
  size_t record_bytes;
  size_t zeros_at;
  size_t codes_at;
  bool half_scales;
  bool has_zeros;
  size_t depth;
  const int8_t* x;        // [block][depth / 4][row][4]
  const float* x_scales;  // [block][row]
  const int32_t* x_sums;  // [block][row]: sums of codes
  float* results;         // [row][16], added to
  size_t blocks;
  size_t bytes_ahead;  // how far before their use codes are asked for; 0: they are near
};

// Rows that the micro-kernel multiplies at once. Four are what 16 registers hold with their codes;
// with AVX-512's 32, eight hide the latency of the dot product and share each unpacking of codes.
#ifdef COGSERVE_BYTE_DOT
inline constexpr size_t kQuantizedTileRows = 8;
#else
inline constexpr size_t kQuantizedTileRows = 4;
#endif

#ifdef COGSERVE_BYTE_PRODUCTS

// Products of bytes without AVX-512's dot product take 256 bits on AVX-512 too, where they are the
// loops of AVX2.
#ifdef COGSERVE_BYTE_DOT
inline constexpr size_t kVectorBytes = 64;
#else
inline constexpr size_t kVectorBytes = 32;
#endif
using U8 = hn::CappedTag<uint8_t, kVectorBytes>;
using I16 = hn::Repartition<int16_t, U8>;
using I32 = hn::Repartition<int32_t, U8>;
using Sum32 = hn::Repartition<float, U8>;
inline constexpr size_t kWords = kVectorBytes / 4;      // outputs of a vector
inline constexpr size_t kParts = kPanelWidth / kWords;  // vectors of a panel

template <size_t kRows>
using BlockSums = hn::Vec<I32>[kRows][kParts];

// Four bytes of x in every word.
HWY_INLINE hn::Vec<I32> broadcast(const int8_t* x) {
  int32_t word;
  std::memcpy(&word, x, sizeof word);
  return hn::Set(I32(), word);
}

#ifdef COGSERVE_BYTE_DOT

// sum + products of bytes: to each 32-bit word, those of its four. By name, because Highway before
// 1.0.4 has compilers write the intrinsic in AVX-VNNI's encoding, which neither Ice Lake nor Zen 4
// knows. Assemblers write this one in AVX-512's.
HWY_INLINE hn::Vec<I32> add_products(hn::Vec<I32> sum, hn::Vec<U8> codes, hn::Vec<I32> x) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sum.raw) : "v"(codes.raw), "v"(x.raw));
  return sum;
}

// Adds products of one step to a block's sums as they come.
template <size_t kRows>
class StepProducts {
 public:
  HWY_INLINE explicit StepProducts(BlockSums<kRows>& sums) : sums_(sums) {}

  // Four inputs.
  HWY_INLINE void add(const hn::Vec<U8> (&codes)[kParts], const int8_t* x) {
    COGSERVE_UNROLL
    for (size_t r = 0; r < kRows; ++r) {
      const auto value = broadcast(x + r * 4);
      COGSERVE_UNROLL
      for (size_t v = 0; v < kParts; ++v) sums_[r][v] = add_products(sums_[r][v], codes[v], value);
    }
  }

  HWY_INLINE void finish() {}

 private:
  BlockSums<kRows>& sums_;
};

#else

// Products of bytes: in each 16-bit half of a word, the sum of two.
HWY_INLINE hn::Vec<I16> pair_products(hn::Vec<U8> codes, hn::Vec<I32> x) {
  return hn::Vec<I16>{_mm256_maddubs_epi16(codes.raw, x.raw)};
}

// The sum of a word's halves.
HWY_INLINE hn::Vec<I32> widen(hn::Vec<I16> pairs) {
  const auto ones = hn::Set(I16(), 1);
  return hn::Vec<I32>{_mm256_madd_epi16(pairs.raw, ones.raw)};
}

// Has the compiler compute a sum where it stands. Left alone, it reorders sums of many products and
// keeps most of them on the stack.
template <class Vec>
HWY_INLINE void pin(Vec& sum) {
  asm("" : "+x"(sum.raw));
}

// Products of one step, of codes 0 .. 15: their 16-bit sums are at most 8 * 2 * 15 * 127 = 30480.
template <size_t kRows>
class StepProducts {
 public:
  HWY_INLINE explicit StepProducts(BlockSums<kRows>& sums) : sums_(sums) {
    COGSERVE_UNROLL
    for (size_t r = 0; r < kRows; ++r) {
      COGSERVE_UNROLL
      for (size_t v = 0; v < kParts; ++v) pairs_[r][v] = hn::Zero(I16());
    }
  }

  // Four inputs.
  HWY_INLINE void add(const hn::Vec<U8> (&codes)[kParts], const int8_t* x) {
    COGSERVE_UNROLL
    for (size_t r = 0; r < kRows; ++r) {
      const auto value = broadcast(x + r * 4);
      COGSERVE_UNROLL
      for (size_t v = 0; v < kParts; ++v) {
        pairs_[r][v] = hn::Add(pairs_[r][v], pair_products(codes[v], value));
        pin(pairs_[r][v]);
      }
    }
  }

  // Adds them to the block's sums.
  HWY_INLINE void finish() {
    COGSERVE_UNROLL
    for (size_t r = 0; r < kRows; ++r) {
      COGSERVE_UNROLL
      for (size_t v = 0; v < kParts; ++v) sums_[r][v] = hn::Add(sums_[r][v], widen(pairs_[r][v]));
    }
  }

 private:
  BlockSums<kRows>& sums_;
  hn::Vec<I16> pairs_[kRows][kParts];
};

#endif

struct Int4Codes {
  static constexpr int32_t kZero = 8;
  static constexpr size_t kStepBytes = kStepInputs * kPanelWidth / 2;

  template <size_t kRows>
  static HWY_INLINE void add_step(const uint8_t* codes, const int8_t* x, BlockSums<kRows>& sums) {
    const U8 d;
    const auto mask = hn::Set(d, 15);
    StepProducts<kRows> products(sums);
    COGSERVE_UNROLL
    for (size_t word = 0; word < kStepInputs / 8; ++word) {
      hn::Vec<U8> low[kParts];
      hn::Vec<U8> high[kParts];
      COGSERVE_UNROLL
      for (size_t v = 0; v < kParts; ++v) {
        const auto both = hn::LoadU(d, codes + (word * kParts + v) * kVectorBytes);
        low[v] = hn::And(both, mask);
        high[v] = hn::And(hn::BitCast(d, hn::ShiftRight<4>(hn::BitCast(I16(), both))), mask);
      }
      products.add(low, x + 2 * word * kRows * 4);
      products.add(high, x + (2 * word + 1) * kRows * 4);
    }
    products.finish();
  }
};

struct Int8Codes {
#ifdef COGSERVE_BYTE_DOT
  // One operand of a dot product has no sign: codes count from -128 there.
  static constexpr int32_t kZero = 128;
#else
  static constexpr int32_t kZero = 0;
#endif
  static constexpr size_t kStepBytes = kStepInputs * kPanelWidth;

  // 32 inputs. |code| times the code of x with code's sign: a pair is at most 2 * 127 * 127 =
  // 32258.
  template <size_t kRows>
  static HWY_INLINE void add_step(const uint8_t* codes, const int8_t* x, BlockSums<kRows>& sums) {
    const U8 d;
    for (size_t quad = 0; quad < kStepInputs / 4; ++quad) {
      hn::Vec<U8> code[kParts];
      COGSERVE_UNROLL
      for (size_t v = 0; v < kParts; ++v) {
        code[v] = hn::LoadU(d, codes + (quad * kParts + v) * kVectorBytes);
#ifdef COGSERVE_BYTE_DOT
        code[v] = hn::Xor(code[v], hn::Set(d, 0x80));
#endif
      }
      COGSERVE_UNROLL
      for (size_t r = 0; r < kRows; ++r) {
        const auto value = broadcast(x + (quad * kRows + r) * 4);
        COGSERVE_UNROLL
        for (size_t v = 0; v < kParts; ++v) {
#ifdef COGSERVE_BYTE_DOT
          sums[r][v] = add_products(sums[r][v], code[v], value);
#else
          const hn::Vec<U8> magnitude{_mm256_abs_epi8(code[v].raw)};
          const hn::Vec<I32> signed_x{_mm256_sign_epi8(value.raw, code[v].raw)};
          sums[r][v] = hn::Add(sums[r][v], widen(pair_products(magnitude, signed_x)));
#endif
        }
      }
    }
  }
};

// Scales of vector `part` of a panel.
HWY_INLINE hn::Vec<Sum32> load_scales(const BlockProduct& product, const std::byte* record,
                                      size_t part) {
  const Sum32 d;
  const hn::Rebind<hwy::float16_t, Sum32> d16;
  if (!product.half_scales) {
    return hn::LoadU(d, reinterpret_cast<const float*>(record) + part * kWords);
  }
  const auto* halves = reinterpret_cast<const hwy::float16_t*>(record);
  return hn::PromoteTo(d, hn::LoadU(d16, halves + part * kWords));
}

// results += (sums - zero * x's sum) * scale * x's scale.
template <class Codes, size_t kRows>
HWY_INLINE void add_block(const BlockProduct& product, const std::byte* record, size_t block,
                          const BlockSums<kRows>& sums) {
  const Sum32 d;
  const I32 d32;
  const auto* zeros = reinterpret_cast<const int32_t*>(record + product.zeros_at);
  COGSERVE_UNROLL
  for (size_t v = 0; v < kParts; ++v) {
    const auto scale = load_scales(product, record, v);
    const auto zero =
        product.has_zeros ? hn::LoadU(d32, zeros + v * kWords) : hn::Set(d32, Codes::kZero);
    COGSERVE_UNROLL
    for (size_t r = 0; r < kRows; ++r) {
      const auto x_sum = hn::Set(d32, product.x_sums[block * kRows + r]);
      const auto x_scale = hn::Set(d, product.x_scales[block * kRows + r]);
      const auto sum = hn::ConvertTo(d, hn::Sub(sums[r][v], hn::Mul(zero, x_sum)));
      float* result = product.results + r * kPanelWidth + v * kWords;
      hn::StoreU(hn::MulAdd(sum, hn::Mul(scale, x_scale), hn::LoadU(d, result)), d, result);
    }
  }
}

template <class Codes, size_t kRows>
void multiply_blocks(const BlockProduct& product) {
  const std::byte* record = product.records;
  const int8_t* x = product.x;
  for (size_t block = 0; block < product.blocks; ++block) {
    BlockSums<kRows> sums;
    COGSERVE_UNROLL
    for (size_t r = 0; r < kRows; ++r) {
      COGSERVE_UNROLL
      for (size_t v = 0; v < kParts; ++v) sums[r][v] = hn::Zero(I32());
    }
    const auto* codes = reinterpret_cast<const uint8_t*>(record + product.codes_at);
    for (size_t k = 0; k < product.depth; k += kStepInputs) {
      if (product.bytes_ahead != 0) {
        COGSERVE_UNROLL
        for (size_t line = 0; line < Codes::kStepBytes; line += 64) {
          hwy::Prefetch(codes + product.bytes_ahead + line);
        }
      }
      Codes::template add_step<kRows>(codes, x, sums);
      codes += Codes::kStepBytes;
      x += kStepInputs * kRows;
    }
    add_block<Codes, kRows>(product, record, block, sums);
    record += product.record_bytes;
  }
}

#else  // plain loops, which compilers turn into whatever vectors there are

struct Int4Codes {
  static constexpr int32_t kZero = 8;
  static constexpr size_t kInputs = 8;  // of a word

  static HWY_INLINE int32_t at(const uint8_t* word, size_t i) {
    return i < 4 ? word[i] & 15 : word[i - 4] >> 4;
  }
};

struct Int8Codes {
  static constexpr int32_t kZero = 0;
  static constexpr size_t kInputs = 4;

  static HWY_INLINE int32_t at(const uint8_t* word, size_t i) {
    return static_cast<int8_t>(word[i]);
  }
};

HWY_INLINE float scale_at(const BlockProduct& product, const std::byte* record, size_t column) {
  return product.half_scales ? to_float(reinterpret_cast<const Float16*>(record)[column])
                             : reinterpret_cast<const float*>(record)[column];
}

template <class Codes, size_t kRows>
void multiply_blocks(const BlockProduct& product) {
  for (size_t block = 0; block < product.blocks; ++block) {
    const std::byte* record = product.records + block * product.record_bytes;
    const auto* zeros = reinterpret_cast<const int32_t*>(record + product.zeros_at);
    const auto* codes = reinterpret_cast<const uint8_t*>(record + product.codes_at);
    const int8_t* x = product.x + block * product.depth * kRows;
    for (size_t r = 0; r < kRows; ++r) {
      int32_t sums[kPanelWidth] = {};
      for (size_t k = 0; k < product.depth; k += Codes::kInputs) {
        const uint8_t* words = codes + k / Codes::kInputs * kPanelWidth * 4;
        for (size_t i = 0; i < Codes::kInputs; ++i) {
          const int32_t value = x[((k + i) / 4 * kRows + r) * 4 + i % 4];
          for (size_t n = 0; n < kPanelWidth; ++n) sums[n] += Codes::at(words + 4 * n, i) * value;
        }
      }
      float* result = product.results + r * kPanelWidth;
      const size_t at = block * kRows + r;
      for (size_t n = 0; n < kPanelWidth; ++n) {
        const int32_t zero = product.has_zeros ? zeros[n] : Codes::kZero;
        const auto sum = static_cast<float>(sums[n] - zero * product.x_sums[at]);
        result[n] = std::fma(sum, scale_at(product, record, n) * product.x_scales[at], result[n]);
      }
    }
  }
}

#endif

}  // namespace cogserve::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // toggle
