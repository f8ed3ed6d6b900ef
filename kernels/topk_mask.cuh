// topk_mask on the GPU. What it computes: sparsetrain/ops/topk_mask.py.
//
// A fixed row of kernels, whose decisions stay on the device (csrc/selection.h): sample, bracket;
// one pass over all scores that writes the masks as if the bracket kept nothing and collects what
// lies in it; a radix select among that; its winners. Where the bracket fails, a radix select over
// all scores. A kernel that is not needed returns at once, so the row is the same every time: it
// can be captured in a CUDA graph, and the host waits for nothing. Bound by memory: the one pass
// reads each score's operands once, 16 bytes at a time.
#pragma once
#include "topk_job.cuh"

namespace sparsetrain {
namespace {

__global__ void __launch_bounds__(kThreads) begin_kernel(const __grid_constant__ Job job) {
  State& state = *job.state;
  for (int b = threadIdx.x; b < kBins; b += kThreads) state.counts[0][b] = state.counts[1][b] = 0;
  if (threadIdx.x != 0) return;
  state.above = state.inside = state.candidates = state.nan = 0;
  state.ticket = 0;
  state.bracket = {0, kInfinity + 1};
  state.select[0] = select_smallest(job.ranks.high, 31);
  state.select[1] = select_smallest(job.ranks.low, 31);
  state.select[0].found = job.ranks.high < 1;
}

// Counts the digits that select[0 .. kN) ask for: this block's in shared memory, then all blocks'.
template <int kN>
struct DigitCounts {
  State& state;
  unsigned (*bins)[kBins];  // shared
  Selection select[kN];

  __device__ DigitCounts(State& state, unsigned (*bins)[kBins]) : state(state), bins(bins) {
    for (int s = 0; s < kN; s++) {
      select[s] = state.select[s];
      for (int b = threadIdx.x; b < kBins; b += kThreads) bins[s][b] = 0;
    }
    __syncthreads();
  }
  __device__ __forceinline__ void add(uint64_t x) {
    for (int s = 0; s < kN; s++)
      if (!settled(select[s]) && begins(select[s], x))
        atomicAdd(&bins[s][digit_of(select[s], x)], 1u);
  }
  // True in the block that chose the digits, once it has.
  __device__ bool choose() {
    __syncthreads();
    for (int s = 0; s < kN; s++)
      for (int b = threadIdx.x; b < kBins; b += kThreads)
        if (bins[s][b]) atomicAdd(&state.counts[s][b], (unsigned long long)bins[s][b]);
    if (!last_block(&state.ticket)) return false;
    for (int s = 0; s < kN; s++) choose_digit(s);
    __syncthreads();
    return true;
  }
  __device__ void choose_digit(int s) {
    constexpr int kEach = kBins / kThreads;
    unsigned long long count[kEach];
    int64_t mine = 0;
    for (int i = 0; i < kEach; i++) {
      const int b = threadIdx.x * kEach + i;
      count[i] = __ldcg(&state.counts[s][b]);
      state.counts[s][b] = 0;
      mine += int64_t(count[i]);
    }
    const Scan<int64_t> scan = block_scan(mine);
    if (settled(select[s])) return;
    if (threadIdx.x == 0 && scan.total < select[s].need) state.select[s].missing = true;
    int64_t before = scan.before;
    for (int i = 0; i < kEach; i++) {
      const int64_t n = int64_t(count[i]);
      if (before < select[s].need && select[s].need <= before + n)
        state.select[s] = narrowed(select[s], threadIdx.x * kEach + i, before, n);
      before += n;
    }
  }
};

__device__ __forceinline__ int64_t first_index() {
  return int64_t(blockIdx.x) * kThreads + threadIdx.x;
}

__device__ __forceinline__ int64_t index_stride() { return int64_t(gridDim.x) * kThreads; }

// The sample's keys, and the top digits of both ends of the bracket.
template <Formula formula>
__global__ void __launch_bounds__(kThreads) sample_kernel(const __grid_constant__ Job job) {
  __shared__ unsigned bins[2][kBins];
  DigitCounts<2> digits(*job.state, bins);
  auto* sample = reinterpret_cast<uint32_t*>(job.entries);
  for (int64_t i = first_index(); i < job.samples; i += index_stride()) {
    const int64_t place = sample_place(i, job.samples, job.numel);
    const Part& part = job.parts[row_of(job.parts, job.count, place, &Part::base)];
    sample[i] = turned(any_key_at<formula>(part, place - part.base, job.score));
    if (sample[i] <= kTopKey) digits.add(sample[i]);
  }
  digits.choose();
}

// The next digits, which are enough: the bracket ends 2^-14 beyond the keys at their ranks.
__global__ void __launch_bounds__(kThreads) bracket_kernel(const __grid_constant__ Job job) {
  __shared__ unsigned bins[2][kBins];
  DigitCounts<2> digits(*job.state, bins);
  const auto* sample = reinterpret_cast<const uint32_t*>(job.entries);
  for (int64_t i = first_index(); i < job.samples; i += index_stride())
    if (sample[i] <= kTopKey) digits.add(sample[i]);
  State& state = *job.state;
  if (digits.choose() && threadIdx.x == 0)
    state.bracket = bracket_between(state.select[0], state.select[1]);
}

// The streaming pass over a block's chunks.
struct Stream {
  const Job& job;
  const int32_t lo, from;  // as signed numbers no candidate is below all keys
  int64_t above = 0, candidates = 0;

  __device__ void begin(int64_t) {}
  __device__ void end(int64_t) {}

  template <typename T>
  __device__ __forceinline__ void operator()(const Part& part, const Tile<T>& tile, int64_t i,
                                             int64_t end) {
    int inside = 0, over = 0, live = 0, largest = 0;
    for (int j = 0; j < Tile<T>::kGroups; j++)
      for (int e = 0; e < Tile<T>::kLanes; e++) {
        const int32_t key = int32_t(tile.key[j][e]);
        over += key >= from;
        inside += key >= lo && key < from;
        live += key >= 0;
        largest = key > largest ? key : largest;
      }
    above += over;
    candidates += live;
    write_tile(part, tile, i, end, [&](uint32_t key) { return int32_t(key) >= from; });
    if (largest > int32_t(kInfinity)) count_nan(part, tile);
    collect(part, tile, i, inside);
  }
  template <typename T>
  __device__ void count_nan(const Part& part, const Tile<T>& tile) {
    unsigned long long found = 0;
    for (int j = 0; j < Tile<T>::kGroups; j++)
      for (int e = 0; e < Tile<T>::kLanes; e++)
        found += int32_t(tile.key[j][e]) > int32_t(kInfinity);
    atomicAdd(&job.nan[part.tensor], found);
    atomicAdd(&job.state->nan, found);
  }
  // Appends the tile's keys in the bracket: one reservation for the block.
  template <typename T>
  __device__ __forceinline__ void collect(const Part& part, const Tile<T>& tile, int64_t i,
                                          int inside) {
    __shared__ int64_t reserved;
    const Scan<int> scan = block_scan(inside);
    if (scan.total == 0) return;
    if (threadIdx.x == 0)
      reserved = int64_t(atomicAdd(&job.state->inside, (unsigned long long)scan.total));
    __syncthreads();
    if (inside == 0) return;
    int64_t slot = reserved + scan.before;
    for (int j = 0; j < Tile<T>::kGroups; j++)
      for (int e = 0; e < Tile<T>::kLanes; e++) {
        const int32_t key = int32_t(tile.key[j][e]);
        if (key < lo || key >= from) continue;
        const int64_t index = part.base + i + Tile<T>::offset(j) + e;
        if (slot < job.capacity) job.entries[slot] = entry_of(key, from, index, job.index_bits);
        slot++;
      }
  }
};

// Thread 0 of the last block: what is left to do, and the selection that it starts with.
__device__ void decide(const Job& job) {
  State& s = *job.state;
  const Counts n = {int64_t(__ldcg(&s.above)), int64_t(__ldcg(&s.inside)),
                    int64_t(__ldcg(&s.candidates)), int64_t(__ldcg(&s.nan))};
  const int bits = entry_bits(s.bracket, job.index_bits);
  s.route = route_of(n, job.k, job.capacity, bits);
  *job.candidates = n.candidates;
  if (s.route == Route::kFinish) {
    s.select[0] = select_smallest(job.k - n.above, bits);
    s.select[0].found = job.k - n.above == n.inside;
  }
  if (s.route == Route::kRadix) s.select[0] = select_smallest(job.k, 31);
}

template <Formula formula>
__global__ void __launch_bounds__(kThreads, 2) stream_kernel(const __grid_constant__ Job job) {
  State& state = *job.state;
  Stream stream{job, int32_t(state.bracket.lo), int32_t(state.bracket.from)};
  for_each_chunk<formula>(job, stream);
  const int64_t above = block_scan(stream.above).total;
  const int64_t candidates = block_scan(stream.candidates).total;
  if (threadIdx.x == 0) {
    atomicAdd(&state.above, (unsigned long long)above);
    atomicAdd(&state.candidates, (unsigned long long)candidates);
  }
  if (last_block(&state.ticket) && threadIdx.x == 0) decide(job);
}

__global__ void __launch_bounds__(kThreads) finish_kernel(const __grid_constant__ Job job) {
  __shared__ unsigned bins[1][kBins];
  State& state = *job.state;
  if (state.route != Route::kFinish || settled(state.select[0])) return;
  DigitCounts<1> digits(state, bins);
  const int64_t n = int64_t(state.inside);
  for (int64_t i = first_index(); i < n; i += index_stride()) digits.add(job.entries[i]);
  digits.choose();
}

__global__ void __launch_bounds__(kThreads) winners_kernel(const __grid_constant__ Job job) {
  const State& state = *job.state;
  if (state.route != Route::kFinish) return;
  const Selection select = state.select[0];
  const int64_t n = int64_t(state.inside);
  for (int64_t i = first_index(); i < n; i += index_stride()) {
    const uint64_t entry = job.entries[i];
    if (!precedes(select, entry) && !begins(select, entry)) continue;
    const int64_t index = index_of(entry, job.index_bits);
    const Part& part = job.parts[row_of(job.parts, job.count, index, &Part::base)];
    part.keep[index - part.base] = true;
  }
}

}  // namespace
}  // namespace sparsetrain
