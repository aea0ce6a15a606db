// Small kernels of 64 threads, two warps, with and without faults of memory, for the test that the
// emulator tells one from the other. In a file of their own because they are compiled as the
// kernels are: each load and store is reported. `memory` is of the device.
#pragma once

namespace cogserve::emulator::planted {

inline constexpr unsigned kThreads = 64;

// A kernel that has waited for earlier ones.
void after_earlier_kernels(void (*kernel)(int*), int* memory);

// Kernels that do not begin by waiting.
void read_and_wait(int* memory);
void do_nothing(int* memory);

// Without a fault: `memory` takes 64 numbers, or 256 where they are copied.
void exchange_by_barriers(int* memory);
void copy_by_barriers(int* memory);

// Races between warps and between lanes of one.
void read_before_a_barrier(int* memory);
void overwrite_before_a_barrier(int* memory);
void write_one_word_from_two_warps(int* memory);
void overwrite_after_a_shuffle(int* memory);
void write_one_word_from_two_lanes(int* memory);
void overwrite_what_all_read(int* memory);
void overwrite_what_the_warp_reads(int* memory);
void write_a_word_and_a_byte_of_it(int* memory);

// Without a fault in one block; with two, some race.
void write_memory(int* memory);
void write_bytes(int* memory);
void read_memory(int* memory);
void read_in_one_block_what_another_writes(int* memory);
void read_in_all_blocks_what_the_last_writes(int* memory);
void add_atomically(int* memory);
void add_atomically_and_read_after_a_barrier(int* memory);
void add_atomically_and_read_in_the_last_block(int* memory);

// Races with atomics.
void add_atomically_and_read(int* memory);
void set_and_add_atomically(int* memory);
void add_atomically_and_read_after_a_warps_barrier(int* memory);

void write_beyond_shared_memory(int* memory);
void write_between_words(int* memory);
void read_a_global_of_the_host(int* memory);
void read_shared_memory(int* memory);
void copy_and_wait_without_a_barrier(int* memory);
void copy_over_what_is_read(int* memory);
void copy_and_read_without_a_wait(int* memory);
void copy_what_changes(int* memory);

// How warps' requests lie: see access_pattern.hpp. 64 x 4 numbers.
void load_side_by_side(int* memory);
void load_every_other(int* memory);
void load_one_for_all(int* memory);
void store_every_eighth(int* memory);
void use_one_bank(int* memory);
void copy_sixteen_bytes_each(int* memory);

}  // namespace cogserve::emulator::planted
