#include "tests/engine/cuda_emulator/planted_accesses.hpp"

#include <cuda_runtime.h>

#include "engine/backend/cuda/launch.cuh"
#include "engine/backend/cuda/ptx.cuh"

namespace cogserve::emulator::planted {
namespace {

int* shared() { return cuda::shared_memory<int>(); }

void copy_sixteen_bytes(const int* from) {
  cuda::ptx::copy_async_16(shared() + 4 * threadIdx.x, from + 4 * threadIdx.x, true);
  cuda::ptx::commit_copies();
  cuda::ptx::wait_copies<0>();
}

}  // namespace

void after_earlier_kernels(void (*kernel)(int*), int* memory) {
  cuda::ptx::begin_kernel();
  kernel(memory);
}

void read_and_wait(int* memory) {
  const int number = memory[threadIdx.x];
  cuda::ptx::wait_for_earlier_kernels();
  memory[threadIdx.x] = number;
}

void do_nothing(int*) {}

void exchange_by_barriers(int* memory) {
  const unsigned i = threadIdx.x;
  for (int round = 0; round < 3; ++round) {
    shared()[i] = round;
    __syncthreads();
    memory[i] = shared()[kThreads - 1 - i];
    __syncthreads();
  }
  for (int round = 0; round < 3; ++round) {
    shared()[i] = round;
    __syncwarp();
    memory[i] = shared()[i ^ 1] + memory[i];
    __syncwarp();
  }
}

void copy_by_barriers(int* memory) {
  copy_sixteen_bytes(memory);
  __syncthreads();
  memory[4 * threadIdx.x] = shared()[4 * (threadIdx.x ^ 1)] + shared()[4 * threadIdx.x];
}

void read_before_a_barrier(int* memory) {
  shared()[threadIdx.x] = 1;
  __syncwarp();  // orders nothing beyond the warp
  memory[threadIdx.x] = shared()[kThreads - 1 - threadIdx.x];
}

void overwrite_before_a_barrier(int* memory) {
  shared()[threadIdx.x] = 1;
  __syncthreads();
  memory[threadIdx.x] = shared()[kThreads - 1 - threadIdx.x];
  __syncwarp();
  shared()[threadIdx.x] = 2;
}

void write_one_word_from_two_warps(int*) { shared()[threadIdx.x % 32] = 1; }

void overwrite_after_a_shuffle(int* memory) {
  shared()[threadIdx.x] = 1;
  __syncthreads();
  memory[threadIdx.x] = shared()[threadIdx.x ^ 1];
  __shfl_xor_sync(~0u, 0, 1);
  shared()[threadIdx.x] = 2;
}

void write_one_word_from_two_lanes(int*) { shared()[threadIdx.x / 2] = 1; }

// The writer itself may be the first or the last to read.
void overwrite_what_all_read(int* memory) {
  if (threadIdx.x == 0) shared()[0] = 1;
  __syncthreads();
  memory[threadIdx.x] = shared()[0];
  if (threadIdx.x == 5) shared()[0] = 2;
}

// The writer is the last to read, where threads are taken in ascending order.
void overwrite_what_the_warp_reads(int* memory) {
  if (threadIdx.x == 0) shared()[0] = 1;
  __syncthreads();
  if (threadIdx.x != 3 && threadIdx.x != 31) return;
  memory[threadIdx.x] = shared()[0];
  if (threadIdx.x == 31) shared()[0] = 2;
}

void write_a_word_and_a_byte_of_it(int* memory) {
  if (threadIdx.x == 0) memory[1] = 1;
  if (threadIdx.x == 40) reinterpret_cast<unsigned char*>(memory)[7] = 1;
}

void write_memory(int* memory) { memory[threadIdx.x] = 1; }

void write_bytes(int* memory) { reinterpret_cast<unsigned char*>(memory)[threadIdx.x] = 1; }

void read_memory(int* memory) { shared()[threadIdx.x] = memory[threadIdx.x]; }

void read_in_one_block_what_another_writes(int* memory) {
  if (blockIdx.x == 0) {
    shared()[threadIdx.x] = memory[threadIdx.x];
  } else {
    memory[threadIdx.x] = 1;
  }
}

// The last block is the last to read, too.
void read_in_all_blocks_what_the_last_writes(int* memory) {
  shared()[threadIdx.x] = memory[threadIdx.x];
  __syncthreads();
  if (blockIdx.x + 1 == gridDim.x) memory[threadIdx.x] = 1;
}

void add_atomically(int* memory) { atomicAdd(memory, 1); }

void add_atomically_and_read_after_a_barrier(int* memory) {
  atomicAdd(memory, 1);
  __syncthreads();
  shared()[threadIdx.x] = *memory;
}

void add_atomically_and_read(int* memory) {
  atomicAdd(memory, 1);
  shared()[threadIdx.x] = *memory;
}

void add_atomically_and_read_in_the_last_block(int* memory) {
  if (threadIdx.x == 0) atomicAdd(memory, 1);
  __syncthreads();
  if (blockIdx.x + 1 == gridDim.x) shared()[threadIdx.x] = *memory;
}

void set_and_add_atomically(int* memory) {
  if (threadIdx.x == 0) *memory = 0;
  if (threadIdx.x >= 32) atomicAdd(memory, 1);
}

void add_atomically_and_read_after_a_warps_barrier(int* memory) {
  if (threadIdx.x % 32 == 0) atomicAdd(memory, 1);
  __syncwarp();
  if (threadIdx.x == 40) shared()[0] = *memory;
}

void write_beyond_shared_memory(int*) { shared()[threadIdx.x + 256 - kThreads + 1] = 1; }

void write_between_words(int* memory) {
  auto* const bytes = reinterpret_cast<char*>(memory + threadIdx.x) + 2;
  if (threadIdx.x < 3) *reinterpret_cast<int*>(bytes) = 1;
}

int host_table[kThreads];

void read_a_global_of_the_host(int* memory) { memory[threadIdx.x] = host_table[threadIdx.x]; }

void read_shared_memory(int* memory) { memory[threadIdx.x] = shared()[threadIdx.x]; }

// Its own part alone would do.
void copy_and_wait_without_a_barrier(int* memory) {
  copy_sixteen_bytes(memory);
  memory[4 * threadIdx.x] = shared()[4 * (threadIdx.x ^ 1)];
}

void copy_over_what_is_read(int* memory) {
  copy_sixteen_bytes(memory);
  __syncthreads();
  const int value = shared()[4 * (threadIdx.x ^ 1)];
  copy_sixteen_bytes(memory);
  memory[4 * threadIdx.x] = value;
}

void copy_and_read_without_a_wait(int* memory) {
  cuda::ptx::copy_async_16(shared() + 4 * threadIdx.x, memory + 4 * threadIdx.x, true);
  cuda::ptx::commit_copies();
  __syncthreads();
  memory[4 * threadIdx.x] = shared()[4 * (threadIdx.x ^ 1)];
  cuda::ptx::wait_copies<0>();
}

void copy_what_changes(int* memory) {
  cuda::ptx::copy_async_16(shared() + 4 * threadIdx.x, memory + 4 * threadIdx.x, true);
  cuda::ptx::commit_copies();
  __syncthreads();  // which does not end the copy
  memory[4 * (threadIdx.x ^ 1)] = 1;
  cuda::ptx::wait_copies<0>();
}

void load_side_by_side(int* memory) {
  if (memory[threadIdx.x] == 1) __builtin_trap();
}

void load_every_other(int* memory) {
  if (memory[2 * threadIdx.x] == 1) __builtin_trap();
}

void load_one_for_all(int* memory) {
  if (memory[0] == 1) __builtin_trap();
}

void store_every_eighth(int* memory) {
  if (threadIdx.x < 32) memory[8 * threadIdx.x] = 0;
}

void use_one_bank(int*) {
  if (threadIdx.x < 8) shared()[32 * threadIdx.x] = 0;
}

void copy_sixteen_bytes_each(int* memory) { copy_sixteen_bytes(memory); }

}  // namespace cogserve::emulator::planted
