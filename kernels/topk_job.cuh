// The memory that the kernels of topk_mask work on, and how they walk over the scores.
#pragma once
#include "../csrc/selection.h"
#include "blocks.cuh"

namespace sparsetrain {
namespace {

// A tensor with entries.
struct Part {
  const void* x;       // [numel] dtype: weights, gradients if the score has only those
  const void* y;       // [numel] dtype: gradients, null where the score has one operand
  const bool* within;  // [numel], null where every entry is a candidate
  bool* keep;          // [numel]
  int64_t numel;
  int64_t base;         // entries of the tensors before it
  int64_t first_chunk;  // chunks of the tensors before it
  int32_t tensor;       // its place in the caller's list
  Dtype dtype;
  bool aligned;  // whether 16 bytes can be loaded
};

// All that is decided on the device.
struct State {
  unsigned long long above, inside, candidates, nan;
  Bracket bracket;
  Route route;
  Selection select[2];
  unsigned ticket;
  unsigned long long counts[2][kBins];  // of the digits being chosen; 0 between kernels
};

struct Job {
  const Part* parts;  // [count]
  State* state;
  uint64_t* entries;        // [capacity], first used for the sample's turned keys
  int32_t* ties;            // [chunks]
  unsigned long long* nan;  // [tensors], 0 before
  long long* candidates;    // []
  int64_t numel, k, capacity;
  int64_t samples;  // 0: the bracket is everything
  Ranks ranks;
  int64_t chunks;
  int32_t chunk, count, index_bits;
  Score score;
};

template <typename T>
__device__ __forceinline__ float single(T x) {
  return static_cast<float>(Wide<T>::widen(x));
}

enum class Formula { kOne, kProduct, kBlend };  // |x|, |x y|, the blend of both

template <Formula formula>
__device__ __forceinline__ uint32_t key_of(float x, float y, const Score& s) {
  if constexpr (formula == Formula::kOne) return as_key(x);
  if constexpr (formula == Formula::kProduct) return snip_key(x, y);
  return blend_key(x, y, s.alpha, s.beta, s.gamma);
}

// How one block walks over a chunk: in tiles, of which a thread has kGroups packs.
template <typename T>
struct Tile {
  static constexpr int kLanes = Pack<T>::kLanes, kGroups = kLanes == 8 ? 2 : 4;
  static constexpr int kStride = kThreads * kLanes, kSize = kGroups * kStride;
  uint32_t key[kGroups][kLanes];  // kNoCandidate beyond the chunk

  static __device__ __forceinline__ int offset(int group) {
    return group * kStride + int(threadIdx.x) * kLanes;
  }
};

template <Formula formula, typename T>
__device__ __forceinline__ void load_whole(Tile<T>& tile, const Part& p, int64_t i,
                                           const Score& score) {
  constexpr int kLanes = Tile<T>::kLanes, kGroups = Tile<T>::kGroups;
  Pack<T> x[kGroups], y[kGroups];
  for (int j = 0; j < kGroups; j++) x[j] = stream_in<T>(p.x, i + Tile<T>::offset(j));
  if constexpr (formula != Formula::kOne)
    for (int j = 0; j < kGroups; j++) y[j] = stream_in<T>(p.y, i + Tile<T>::offset(j));
  for (int j = 0; j < kGroups; j++)
    for (int e = 0; e < kLanes; e++) {
      const float other = formula == Formula::kOne ? 0 : single(y[j].lane[e]);
      tile.key[j][e] = key_of<formula>(single(x[j].lane[e]), other, score);
    }
  if (!p.within) return;
  for (int j = 0; j < kGroups; j++) {
    using Group = Bytes<kLanes>;
    const auto in = *reinterpret_cast<const Group*>(p.within + i + Tile<T>::offset(j));
    for (int e = 0; e < kLanes; e++) tile.key[j][e] = in.lane[e] ? tile.key[j][e] : kNoCandidate;
  }
}

template <Formula formula, typename T>
__device__ __forceinline__ uint32_t key_at(const Part& p, int64_t i, const Score& score) {
  if (p.within && !p.within[i]) return kNoCandidate;
  const float x = single(static_cast<const T*>(p.x)[i]);
  const float y = formula == Formula::kOne ? 0 : single(static_cast<const T*>(p.y)[i]);
  return key_of<formula>(x, y, score);
}

template <Formula formula>
__device__ uint32_t any_key_at(const Part& p, int64_t i, const Score& score) {
  switch (p.dtype) {
    case Dtype::kFloat:
      return key_at<formula, float>(p, i, score);
    case Dtype::kDouble:
      return key_at<formula, double>(p, i, score);
    case Dtype::kBFloat16:
      return key_at<formula, Bf16>(p, i, score);
    default:
      return key_at<formula, Fp16>(p, i, score);
  }
}

template <Formula formula, typename T>
__device__ __forceinline__ void load_part(Tile<T>& tile, const Part& p, int64_t i, int64_t end,
                                          const Score& score) {
  for (int j = 0; j < Tile<T>::kGroups; j++)
    for (int e = 0; e < Tile<T>::kLanes; e++) {
      const int64_t at = i + Tile<T>::offset(j) + e;
      tile.key[j][e] = at < end ? key_at<formula, T>(p, at, score) : kNoCandidate;
    }
}

template <Formula formula, typename T, typename Visit>
__device__ __forceinline__ void for_each_tile(const Part& part, const Score& score, int64_t begin,
                                              int64_t end, Visit& visit) {
  for (int64_t i = begin; i < end; i += Tile<T>::kSize) {
    Tile<T> tile;
    if (part.aligned && i + Tile<T>::kSize <= end)
      load_whole<formula>(tile, part, i, score);
    else
      load_part<formula>(tile, part, i, end, score);
    visit(part, tile, i, end);
  }
}

// visit.begin(chunk), visit(part, tile, i, end) for its tiles, visit.end(chunk), for this block's
// share of the chunks. All threads of the block come along.
template <Formula formula, typename Visit>
__device__ __forceinline__ void for_each_chunk(const Job& job, Visit& visit) {
  for (int64_t c = blockIdx.x; c < job.chunks; c += gridDim.x) {
    const Part part = job.parts[row_of(job.parts, job.count, c, &Part::first_chunk)];
    const int64_t begin = (c - part.first_chunk) * job.chunk;
    const int64_t end = begin + job.chunk < part.numel ? begin + job.chunk : part.numel;
    visit.begin(c);
    switch (part.dtype) {
      case Dtype::kFloat:
        for_each_tile<formula, float>(part, job.score, begin, end, visit);
        break;
      case Dtype::kDouble:
        for_each_tile<formula, double>(part, job.score, begin, end, visit);
        break;
      case Dtype::kBFloat16:
        for_each_tile<formula, Bf16>(part, job.score, begin, end, visit);
        break;
      case Dtype::kHalf:
        for_each_tile<formula, Fp16>(part, job.score, begin, end, visit);
        break;
    }
    visit.end(c);
  }
}

// Writes keep(key) for the entries of a tile.
template <typename T, typename Keep>
__device__ __forceinline__ void write_tile(const Part& part, const Tile<T>& tile, int64_t i,
                                           int64_t end, Keep keep) {
  constexpr int kLanes = Tile<T>::kLanes;
  for (int j = 0; j < Tile<T>::kGroups; j++) {
    const int64_t at = i + Tile<T>::offset(j);
    Bytes<kLanes> bytes;
    for (int e = 0; e < kLanes; e++) bytes.lane[e] = keep(tile.key[j][e]);
    if (at + kLanes <= end)
      *reinterpret_cast<Bytes<kLanes>*>(part.keep + at) = bytes;
    else
      for (int e = 0; e < kLanes; e++)
        if (at + e < end) part.keep[at + e] = bytes.lane[e];
  }
}

}  // namespace
}  // namespace sparsetrain
