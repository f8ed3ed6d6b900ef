// How the optimizer steps walk over their table of parameters (csrc/parameter_table.h) on the GPU.
//
// The table lies in device memory and the host does not read it: a grid that fills the device
// shares out chunks of all rows, however many there are, in one launch. Everything a step touches
// is read and written once, 16 bytes at a time where addresses allow: bound by memory.
#pragma once
#include "../csrc/parameter_table.h"
#include "blocks.cuh"

namespace sparsetrain {
namespace {

constexpr int64_t kStepChunk = 1 << 13;

// GradScaler's numbers, null where there is none.
struct Scaling {
  const float *grad_scale, *found_inf;
};

// visit(row, begin, end) for this block's share of all chunks; all threads come along.
template <typename Visit>
__device__ void for_each_share(const Parameter* table, int64_t rows, Visit visit) {
  __shared__ int64_t first[kThreads];
  int64_t done = 0;
  for (int64_t batch = 0; batch < rows; batch += kThreads) {
    const int64_t row = batch + threadIdx.x;
    const int64_t chunks = row < rows ? (table[row].numel + kStepChunk - 1) / kStepChunk : 0;
    const Scan<int64_t> scan = block_scan(chunks);
    first[threadIdx.x] = scan.before;
    __syncthreads();
    int64_t c = (blockIdx.x + gridDim.x - done % gridDim.x) % gridDim.x;
    for (; c < scan.total; c += gridDim.x) {
      int low = 0, high = kThreads;
      while (high - low > 1) {
        const int middle = (low + high) / 2;
        (first[middle] <= c ? low : high) = middle;
      }
      const Parameter& p = table[batch + low];
      const int64_t begin = (c - first[low]) * kStepChunk;
      visit(p, begin, begin + kStepChunk < p.numel ? begin + kStepChunk : p.numel);
    }
    done += scan.total;
    __syncthreads();
  }
}

__device__ __forceinline__ bool all_aligned(const Parameter& p, int mask_bytes) {
  uintptr_t bits = reinterpret_cast<uintptr_t>(p.weight) | reinterpret_cast<uintptr_t>(p.grad);
  for (const void* s : p.state) bits |= reinterpret_cast<uintptr_t>(s);
  return bits % 16 == 0 && reinterpret_cast<uintptr_t>(p.mask) % mask_bytes == 0;
}

// Numbers [i, i + kLanes) of x: a pack, aligned, or a single one.
template <typename T, int kLanes>
__device__ __forceinline__ void read(T (&lane)[kLanes], const void* x, int64_t i) {
  const T* from = static_cast<const T*>(x) + i;
  if constexpr (kLanes == 1) {
    lane[0] = *from;
  } else {
    const Pack<T> pack = stream_in<T>(from, 0);
    for (int e = 0; e < kLanes; e++) lane[e] = pack.lane[e];
  }
}

template <typename T, int kLanes>
__device__ __forceinline__ void write(const T (&lane)[kLanes], void* x, int64_t i) {
  T* to = static_cast<T*>(x) + i;
  if constexpr (kLanes == 1) {
    *to = lane[0];
  } else {
    Pack<T> pack;
    for (int e = 0; e < kLanes; e++) pack.lane[e] = lane[e];
    stream_out(to, pack);
  }
}

// Elements [i, i + kLanes) of a row.
template <typename T, int kLanes, int kStates, typename Step, typename Real>
__device__ __forceinline__ void step_lanes(const Parameter& p, int64_t i, bool scaled, Real scale,
                                           const Step& step) {
  T w[kLanes], g[kLanes], s[kStates][kLanes] = {};
  Bytes<kLanes> live;
  for (int e = 0; e < kLanes; e++) live.lane[e] = 1;
  read(w, p.weight, i);
  read(g, p.grad, i);
  for (int j = 0; j < kStates; j++)
    if (p.state[j]) read(s[j], p.state[j], i);
  if (p.mask) live = *reinterpret_cast<const Bytes<kLanes>*>(p.mask + i);
  for (int e = 0; e < kLanes; e++) {
    Real grad = Wide<T>::widen(g[e]), weight = Wide<T>::widen(w[e]), state[kStates];
    if (scaled) grad /= scale;
    for (int j = 0; j < kStates; j++) state[j] = Wide<T>::widen(s[j][e]);
    step(weight, grad, state, live.lane[e] != 0);
    g[e] = Wide<T>::narrow(grad);
    w[e] = Wide<T>::narrow(weight);
    for (int j = 0; j < kStates; j++) s[j][e] = Wide<T>::narrow(state[j]);
  }
  write(w, p.weight, i);
  if (scaled) write(g, p.grad, i);
  for (int j = 0; j < kStates; j++)
    if (p.state[j]) write(s[j], p.state[j], i);
}

// step(w, g, state, live) changes one element, in the precision `Real`; kStates is how many states
// there may be, of which those with a null address are not touched.
template <typename T, int kStates, typename Step>
__device__ __forceinline__ void step_share(const Parameter& p, int64_t begin, int64_t end,
                                           const Scaling& scaling, const Step& step) {
  using Real = typename Wide<T>::Real;
  constexpr int kLanes = Pack<T>::kLanes;
  const bool scaled = scaling.grad_scale != nullptr;
  const Real scale = scaled ? Real(*scaling.grad_scale) : Real(1);
  int64_t i = begin;
  if (all_aligned(p, kLanes))
    for (; i + kThreads * kLanes <= end; i += kThreads * kLanes)
      step_lanes<T, kLanes, kStates>(p, i + threadIdx.x * kLanes, scaled, scale, step);
  for (i += threadIdx.x; i < end; i += kThreads)
    step_lanes<T, 1, kStates>(p, i, scaled, scale, step);
}

}  // namespace
}  // namespace sparsetrain
