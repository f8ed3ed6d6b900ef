// Enough of CUDA to run kernels on a CPU: one block after another, a fiber for each thread.
//
// It runs the kernels' own code, so it tests what they compute; not their speed, nor what happens
// when blocks run at the same time. Threads meet at each barrier and shuffle, and a kernel whose
// threads do not all come to the same ones is stopped.
#pragma once
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#include "../../csrc/floats.h"

#define __global__ static
#define __device__
#define __shared__ static
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)

struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};
struct Index {
  unsigned x;
};
inline Index threadIdx, blockIdx, gridDim;

namespace on_cpu {

constexpr int kThreads = 512;
constexpr size_t kStack = 1 << 16;

inline ucontext_t scheduler, fiber[kThreads];
inline bool finished[kThreads];
inline uint64_t exchanged[2][kThreads];
inline int meeting[kThreads];  // of each thread
inline std::function<void()> body;

inline void meet() {
  const unsigned me = threadIdx.x;
  meeting[me]++;
  swapcontext(&fiber[me], &scheduler);
}

inline void enter() {
  const unsigned me = threadIdx.x;
  body();
  finished[me] = true;
  swapcontext(&fiber[me], &scheduler);
}

inline void run_block() {
  static std::vector<char> stacks(kThreads * kStack);
  for (int t = 0; t < kThreads; t++) {
    getcontext(&fiber[t]);
    fiber[t].uc_stack = {};
    fiber[t].uc_stack.ss_sp = &stacks[t * kStack];
    fiber[t].uc_stack.ss_size = kStack;
    fiber[t].uc_link = nullptr;
    makecontext(&fiber[t], enter, 0);
    finished[t] = false;
  }
  for (int left = kThreads; left > 0;) {
    for (int t = 0; t < kThreads; t++) {
      threadIdx.x = unsigned(t);
      swapcontext(&scheduler, &fiber[t]);
    }
    left = int(std::count(finished, finished + kThreads, false));
    if (left != 0 && left != kThreads) {
      std::fprintf(stderr, "threads of a block came to different barriers\n");
      std::abort();
    }
  }
}

// As kernel<<<blocks, 512>>>(args...).
template <typename... Params, typename... Args>
void launch(void (*kernel)(Params...), int64_t blocks, const Args&... args) {
  gridDim.x = unsigned(blocks);
  body = [&] { kernel(args...); };
  for (unsigned b = 0; b < gridDim.x; b++) {
    blockIdx.x = b;
    run_block();
  }
}

}  // namespace on_cpu

inline void __syncthreads() { on_cpu::meet(); }
inline void __threadfence() {}

template <typename T>
T __shfl_up_sync(unsigned, T value, unsigned step) {
  const unsigned me = threadIdx.x;
  uint64_t* slots = on_cpu::exchanged[on_cpu::meeting[me] % 2];
  std::memcpy(&slots[me], &value, sizeof value);
  on_cpu::meet();
  if (me % 32 >= step) std::memcpy(&value, &slots[me - step], sizeof value);
  return value;
}

template <typename T>
T __ldg(const T* p) {
  return *p;
}

template <typename T>
T __ldcs(const T* p) {
  return *p;
}

template <typename T>
void __stcs(T* p, const T& value) {
  *p = value;
}

template <typename T>
T __ldcg(const T* p) {
  return *p;
}

template <typename T>
T atomicAdd(T* p, T by) {
  const T before = *p;
  *p += by;
  return before;
}

inline float half_to_float(uint16_t x) { return sparsetrain::Half::widen(x); }
inline uint16_t float_to_half(float x) { return sparsetrain::Half::narrow(x); }
inline uint16_t float_to_bf16(float x) { return sparsetrain::BFloat16::narrow(x); }
