// topk_mask on the GPU where the bracket fails: scores of which very many are equal, or that lie
// just so that the sample misleads. A radix select over all of them, three digits, then the masks,
// then ties, which go to the lower global index: each chunk gets its share of them.
#pragma once
#include "topk_mask.cuh"

namespace sparsetrain {
namespace {

struct CountDigits {
  DigitCounts<1>& digits;

  __device__ void begin(int64_t) {}
  __device__ void end(int64_t) {}

  template <typename T>
  __device__ void operator()(const Part&, const Tile<T>& tile, int64_t, int64_t) {
    for (int j = 0; j < Tile<T>::kGroups; j++)
      for (int e = 0; e < Tile<T>::kLanes; e++) {
        const uint32_t x = turned(tile.key[j][e]);
        if (x <= kTopKey) digits.add(x);
      }
  }
};

template <Formula formula>
__global__ void __launch_bounds__(kThreads, 2) radix_kernel(const __grid_constant__ Job job) {
  __shared__ unsigned bins[1][kBins];
  State& state = *job.state;
  if (state.route != Route::kRadix || settled(state.select[0])) return;
  DigitCounts<1> digits(state, bins);
  CountDigits count{digits};
  for_each_chunk<formula>(job, count);
  digits.choose();
}

// Writes what is kept but for ties that are not kept all, and counts those.
struct Write {
  const Job& job;
  const Selection select;
  const bool none;
  int ties = 0;

  __device__ void begin(int64_t) { ties = 0; }
  __device__ void end(int64_t chunk) {
    const int total = block_scan(ties).total;
    if (threadIdx.x == 0) job.ties[chunk] = total;
  }
  template <typename T>
  __device__ void operator()(const Part& part, const Tile<T>& tile, int64_t i, int64_t end) {
    for (int j = 0; j < Tile<T>::kGroups; j++)
      for (int e = 0; e < Tile<T>::kLanes; e++) ties += tie(tile.key[j][e]);
    write_tile(part, tile, i, end, [&](uint32_t key) { return kept(key); });
  }
  __device__ __forceinline__ bool tie(uint32_t key) const {
    return !none && !select.found && begins(select, turned(key));
  }
  __device__ __forceinline__ bool kept(uint32_t key) const {
    const uint32_t x = turned(key);
    return !none && (precedes(select, x) || (select.found && begins(select, x)));
  }
};

// The last block turns each chunk's ties into its share of the `left` that are kept.
__device__ void share_ties(const Job& job, int64_t left) {
  int64_t before = 0;
  for (int64_t first = 0; first < job.chunks; first += kThreads) {
    const int64_t c = first + threadIdx.x;
    const int64_t mine = c < job.chunks ? __ldcg(&job.ties[c]) : 0;
    const Scan<int64_t> scan = block_scan(mine);
    const int64_t room = left - before - scan.before;
    if (c < job.chunks) job.ties[c] = int32_t(room <= 0 ? 0 : room < mine ? room : mine);
    before += scan.total;
  }
}

template <Formula formula>
__global__ void __launch_bounds__(kThreads) write_kernel(const __grid_constant__ Job job) {
  State& state = *job.state;
  const Route route = state.route;
  if (route != Route::kRadix && route != Route::kClear) return;
  Write write{job, state.select[0], route == Route::kClear};
  for_each_chunk<formula>(job, write);
  if (last_block(&state.ticket)) share_ties(job, state.select[0].need);
}

// Keeps the first ties of each chunk, as many as its share.
template <Formula formula>
__global__ void __launch_bounds__(kThreads) ties_kernel(const __grid_constant__ Job job) {
  const Selection select = job.state->select[0];
  if (job.state->route != Route::kRadix || select.found) return;
  for (int64_t c = blockIdx.x; c < job.chunks; c += gridDim.x) {
    const int share = job.ties[c];
    if (share == 0) continue;
    const Part& part = job.parts[row_of(job.parts, job.count, c, &Part::first_chunk)];
    const int64_t begin = (c - part.first_chunk) * job.chunk;
    const int64_t end = begin + job.chunk < part.numel ? begin + job.chunk : part.numel;
    int seen = 0;
    for (int64_t first = begin; first < end && seen < share; first += kThreads) {
      const int64_t i = first + threadIdx.x;
      const uint32_t key = i < end ? any_key_at<formula>(part, i, job.score) : kNoCandidate;
      const bool tie = begins(select, turned(key));
      const Scan<int> scan = block_scan(int(tie));
      if (tie && seen + scan.before < share) part.keep[i] = true;
      seen += scan.total;
    }
  }
}

constexpr int64_t kSmall = 1 << 18;  // entries that the bracket may hold all

// Memory for a job of this many entries and chunks: at most 2% of fp32 scores and 3 MB.
void plan(Job& job) {
  const int64_t n = job.numel;
  job.capacity = n <= kSmall ? n : n / 100 < kSmall ? kSmall : n / 100;
  job.samples = n <= kSmall ? 0 : n < (1 << 23) ? 1 << 16 : 1 << 18;
  job.ranks = sample_ranks(job.k, n, job.samples < 1 ? 1 : job.samples);
  job.index_bits = bit_width(n - 1);
  job.chunk = n < (1 << 26) ? 1 << 14 : 1 << 16;
}

// The whole row; launch(kernel, blocks, job) starts one. `wide` blocks fill the device.
template <Formula formula, typename Launch>
void launch_topk_mask(const Job& job, int64_t wide, Launch launch) {
  const auto blocks = [&](int64_t n) { return n < 1 ? 1 : n < wide ? n : wide; };
  const int64_t streams = blocks(job.chunks);
  launch(begin_kernel, int64_t(1), job);
  if (job.samples > 0) {
    const int64_t samplers = blocks(job.samples / (4 * kThreads));
    launch(sample_kernel<formula>, samplers, job);
    launch(bracket_kernel, samplers, job);
  }
  launch(stream_kernel<formula>, streams, job);
  const int64_t finishers = blocks(job.capacity / (4 * kThreads));
  for (int bits = 31 + job.index_bits; bits > 0; bits -= kDigitBits)
    launch(finish_kernel, finishers, job);
  launch(winners_kernel, finishers, job);
  for (int bits = 31; bits > 0; bits -= kDigitBits) launch(radix_kernel<formula>, streams, job);
  launch(write_kernel<formula>, streams, job);
  launch(ties_kernel<formula>, streams, job);
}

}  // namespace
}  // namespace sparsetrain
