// Row-wise operations share out rows in pieces that are worth a thread's while.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "engine/backend/cpu/thread_pool.hpp"

namespace cogserve::cpu {

// `body(begin, end)` over row ranges that cover [0, rows), each of about 16384 elements.
template <typename Body>
void parallel_rows(ThreadPool& pool, int64_t rows, int64_t cols, const Body& body) {
  constexpr int64_t kPieceElements = 16384;
  const int64_t grain = std::max<int64_t>(1, kPieceElements / std::max<int64_t>(1, cols));
  pool.parallel_for(static_cast<size_t>(rows), static_cast<size_t>(grain),
                    [&](size_t begin, size_t end, int) { body(begin, end); });
}

}  // namespace cogserve::cpu
