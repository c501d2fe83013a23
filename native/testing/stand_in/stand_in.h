// A CUDA driver that needs no GPU: memory is host memory, work is done at once, kernels do nothing. It refuses what a driver refuses, counts what is
// alive and what is used wrongly, and fails on demand, so that the host code of every operation runs on any machine and under the sanitizers.
// These functions are looked up in the stand-in `libcuda.so.1`; a real driver has none of them.
#pragma once

#include <cstdint>

extern "C" {
// The `calls`-th driver call from now that may fail ends with `result`; 0 calls: none.
void h4j_stand_in_fail(int64_t calls, int result);
// Objects and allocations that were made and not destroyed, retained contexts included.
int64_t h4j_stand_in_live();
// Uses of destroyed or unknown objects so far.
int64_t h4j_stand_in_misuses();
// Kernels that were launched so far, replays of graphs included.
int64_t h4j_stand_in_launches();
}
