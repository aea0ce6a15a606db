// The emulator's cuBLASLt: what NVIDIA's documentation promises and no more, so that a use which
// only happens to work on some GPU fails here.
//
// Matrices are column-major; D = alpha op(A) op(B) + beta C, with f32 sums of f32, bf16 or f16
// operands, a D of the same type or f32, and a bias of D's type for each of D's rows. Scalars are
// the host's and read by the call; the rest is read and written when the stream's work runs.
//   - A value of another size than its attribute has is refused, as are shapes and types that do
//     not fit each other, and descriptors that were destroyed.
//   - The heuristic keeps to the preferences: alignments, workspace, ways of reduction. It heeds
//     how the bias pointer is aligned, too ("routines that don't dereference this pointer [...]
//     depend on its value to determine expected pointer alignment"). One of its results is not to
//     be used, if there are two: its state says so.
//   - cublasLtMatmulAlgoCheck looks at layouts alone; an algorithm that passes is refused by
//     cublasLtMatmul if a buffer, or the bias, is not aligned as it needs it.
//   - A workspace is a multiple of 256 bytes into memory; what is split really lies there.
//   - Operands are device memory that somebody has written.
//   - While a stream is captured the library is asked in vain what it can do (INTERNAL_ERROR), as
//     some versions are; products can be recorded.
// NOT_SUPPORTED is an answer that the documentation allows for any shape. Here it is that for odd
// k: the kernels, like matrix instructions, take more than one product at a time and pad nothing.
// So what a backend does without an algorithm is tested too.
#pragma once

#include <array>

namespace cogserve::emulator {

// What the library computes products with. All but the last need more alignment than elements do,
// each a different one, and sum in an order of their own.
enum class LibraryKernel {
  kTiles,   // 16 bytes; 16 products at a time, whole tiles of 8 columns of D
  kSplit,   // 8 bytes, at least 32 products; parts in the workspace
  kPairs,   // 4 bytes; even and odd products apart
  kInOrder  // any
};
inline constexpr int kLibraryKernels = 4;

// What was asked for so far.
struct LibraryCounts {
  int heuristics = 0;
  int products = 0;  // that were given to a stream
  int captured = 0;  // those of them that went into a graph
  int refused = 0;   // calls of cublasLtMatmul
  std::array<int, kLibraryKernels> products_by = {};

  int by(LibraryKernel kernel) const { return products_by[static_cast<int>(kernel)]; }
  LibraryCounts since(const LibraryCounts& earlier) const;
};
LibraryCounts& library_counts();

// For tests.
struct LibraryBehaviour {
  // Device time of a product; 0: by its shape, so that each kernel is the fastest for some.
  std::array<float, kLibraryKernels> ms = {};
  // That cublasLtMatmul refuses, whatever was said before.
  std::array<bool, kLibraryKernels> refused = {};

  void set_ms(LibraryKernel kernel, float value) { ms[static_cast<int>(kernel)] = value; }
  void refuse(LibraryKernel kernel) { refused[static_cast<int>(kernel)] = true; }
};
LibraryBehaviour& library_behaviour();

}  // namespace cogserve::emulator
