// What kernels over many tensors share: 16-byte packs, a table of the tensors in device memory,
// sums over a block. Without PyTorch; tests/csrc/cuda_on_cpu.h runs the same code on a CPU.
#pragma once
#include <cstdint>
#include <vector>

#include "../csrc/keys.h"

namespace sparsetrain {
namespace {

constexpr int kThreads = 512, kWarps = kThreads / 32;

struct Bf16 {
  uint16_t bits;
};
struct Fp16 {
  uint16_t bits;
};

#ifdef __CUDACC__
__device__ __forceinline__ float half_to_float(uint16_t x) {
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x));
  return y;
}

__device__ __forceinline__ uint16_t float_to_half(float x) {
  uint16_t y;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y) : "f"(x));
  return y;
}

__device__ __forceinline__ uint16_t float_to_bf16(float x) {
  uint16_t y;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y) : "f"(x));
  return y;
}
#endif

// A stored number as the one that is computed with, and back, rounded to the nearest even.
template <typename T>
struct Wide {
  using Real = T;
  static __device__ __forceinline__ T widen(T x) { return x; }
  static __device__ __forceinline__ T narrow(T x) { return x; }
};

template <>
struct Wide<Bf16> {
  using Real = float;
  static __device__ __forceinline__ float widen(Bf16 x) { return float_of(uint32_t(x.bits) << 16); }
  static __device__ __forceinline__ Bf16 narrow(float x) { return {float_to_bf16(x)}; }
};

template <>
struct Wide<Fp16> {
  using Real = float;
  static __device__ __forceinline__ float widen(Fp16 x) { return half_to_float(x.bits); }
  static __device__ __forceinline__ Fp16 narrow(float x) { return {float_to_half(x)}; }
};

// What one 16-byte load brings.
template <typename T>
struct alignas(16) Pack {
  static constexpr int kLanes = 16 / sizeof(T);
  T lane[kLanes];
};

// A pack that will not be needed again soon.
template <typename T>
__device__ __forceinline__ Pack<T> stream_in(const void* x, int64_t i) {
  const uint4 bits = __ldcs(reinterpret_cast<const uint4*>(static_cast<const T*>(x) + i));
  Pack<T> pack;
  memcpy(&pack, &bits, sizeof pack);
  return pack;
}

template <typename T>
__device__ __forceinline__ void stream_out(T* x, const Pack<T>& pack) {
  uint4 bits;
  memcpy(&bits, &pack, sizeof pack);
  __stcs(reinterpret_cast<uint4*>(x), bits);
}

// One byte for each lane of a pack.
template <int kLanes>
struct alignas(kLanes) Bytes {
  uint8_t lane[kLanes];
};

// Rows of a table that travel as a kernel argument, and so are part of a CUDA graph.
template <typename Row>
struct Rows {
  static constexpr int kMost = 12800 / sizeof(Row);
  Row row[kMost];
};

template <typename Row>
__global__ void upload_kernel(const __grid_constant__ Rows<Row> rows, int count, Row* to) {
  for (int i = threadIdx.x; i < count; i += kThreads) to[i] = rows.row[i];
}

// Fills in first_chunk; returns how many chunks there are.
template <typename Row>
int64_t number_chunks(std::vector<Row>& rows, int64_t chunk) {
  int64_t chunks = 0;
  for (Row& row : rows) {
    row.first_chunk = chunks;
    chunks += (row.numel + chunk - 1) / chunk;
  }
  return chunks;
}

// The last row that begins at or before place; rows are sorted by `first`, and none is empty.
template <typename Row>
__device__ __forceinline__ int row_of(const Row* rows, int count, int64_t place,
                                      int64_t Row::* first) {
  int low = 0, high = count;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (rows[middle].*first <= place ? low : high) = middle;
  }
  return low;
}

template <typename T>
struct Scan {
  T before, total;  // of the threads before this one; of all
};

// Sums over the block; all threads must call it.
template <typename T>
__device__ Scan<T> block_scan(T mine) {
  __shared__ T of_warp[kWarps];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  T upto = mine;
  for (int step = 1; step < 32; step *= 2) {
    const T other = __shfl_up_sync(~0u, upto, step);
    if (lane >= step) upto += other;
  }
  if (lane == 31) of_warp[warp] = upto;
  __syncthreads();
  T before = 0, total = 0;
  for (int w = 0; w < kWarps; w++) {
    before += w < warp ? of_warp[w] : 0;
    total += of_warp[w];
  }
  __syncthreads();
  return {before + upto - mine, total};
}

// Whether this block is the last of the grid to come here: then it sees what all of them wrote, if
// it reads by __ldcg. The ticket is left at 0.
__device__ bool last_block(unsigned* ticket) {
  __shared__ bool last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    last = atomicAdd(ticket, 1u) == gridDim.x - 1;
    if (last) *ticket = 0;
  }
  __syncthreads();
  __threadfence();
  return last;
}

}  // namespace
}  // namespace sparsetrain
