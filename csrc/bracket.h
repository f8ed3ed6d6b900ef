// Where topk_mask guesses that the k-th largest key lies: from the last selection, or a sample.
//
// A guess decides how long the selection takes and never what it selects. Bound by rank, not by
// value: a bracket is meant to hold few scores, whatever their distribution.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>

#include "stream.h"

namespace sparsetrain {

// What a selection leaves for the next one over the same tensors.
struct Warm {
  double key = -1;     // the k-th largest; negative: nothing is known
  double k = 0;        // of the selection
  double density = 0;  // scores a key, around it
  double half = 0;     // keys to either side that the next bracket takes
  double path = 0;     // how the selection went: a Path
};
enum Path : int { kNone, kFromLast, kFromSample, kByRadix };

constexpr Bracket kWhole{0, INT32_MAX};
constexpr int64_t kSmall = 1 << 14;  // scores that are all packed: no guess could be faster

// Entries of scratch memory for n scores, 6 bytes each: 1.5% of n fp32 scores, and 384 KiB.
inline int64_t scratch_entries(int64_t n) { return n / 100 + (1 << 16); }

// Where the last selection says that the k-th largest is; negative: it does not.
inline double expected_key(const Warm& warm, int64_t k) {
  if (warm.key < 0 || warm.density <= 0) return -1;
  const double key = warm.key + (warm.k - double(k)) / warm.density;
  return key > 0 && key < double(kInfinity) ? key : -1;
}

// The keys around it, if that is worth trying.
inline bool bracket_from_last(const Warm& warm, double expected, int64_t n, Bracket* bracket) {
  if (expected < 0 || 2 * warm.half * warm.density > 0.5 * double(scratch_entries(n))) return false;
  bracket->lo = int32_t(std::max(expected - warm.half, 0.0));
  bracket->hi = int32_t(std::min(expected + warm.half, double(kInfinity)));
  return true;
}

// Remembers that the k-th largest is `key`, in a bracket that held `found` scores; with what was
// expected of the last, the next half width: four times the error, and at least half of this one.
// How far a sample was off says nothing of the next step.
inline void remember(Warm& warm, uint32_t key, double expected, int64_t n, int64_t k,
                     Bracket bracket, int64_t found) {
  const double width = double(bracket.hi) - bracket.lo + 1;
  const double error = expected < 0 ? 0 : std::abs(double(key) - expected);
  warm.key = key;
  warm.k = double(k);
  warm.density = double(found) / width;
  const double least = double(n) / 4000 / std::max(warm.density, 1e-9);
  warm.half = std::max({least, 4 * error, width / 4});
}

// A hash that spreads i over 32 bits: positions that no period of the data can follow.
inline uint32_t scatter(uint64_t i) {
  i = (i ^ (i >> 31)) * 0x9e3779b97f4a7c15u;
  return uint32_t((i ^ (i >> 29)) * 0xbf58476d1ce4e5b9u >> 32);
}

constexpr int64_t kCluster = 16;  // keys beside each other: a cache line of floats

// As many keys as make sampling and what it saves cost the same, in whole clusters.
inline int64_t sample_size(int64_t n) {
  const auto wanted = int64_t(std::pow(double(n), 2.0 / 3));
  const int64_t size = std::min({std::max<int64_t>(wanted, 1 << 11), n, scratch_entries(n)});
  return size / kCluster * kCluster;
}

// The signed keys of `count` clusters of a segment that begin at `at`; past its end the last one
// again.
inline void cluster_keys(const ScoreInput& in, const Score& score, int64_t numel, const int64_t* at,
                         int64_t count, int32_t* out) {
  const bool direct = with_floats(in, score, 0, [&](const auto& source) {
    for (int64_t c = 0; c < count; c++) source.fetch(at[c]);  // all at once, pages to be walked too
    for (int64_t c = 0; c < count; c++)
      for (int64_t j = 0; j < kCluster; j++) *out++ = source.key(std::min(at[c] + j, numel - 1));
  });
  for (int64_t c = 0; !direct && c < count; c++) {
    uint32_t keys[kCluster];
    const int64_t n = std::min(kCluster, numel - at[c]);
    score_keys(in, score, at[c], n, keys);
    for (int64_t j = 0; j < kCluster; j++) *out++ = int32_t(keys[std::min(j, n - 1)]);
  }
}

// sample, [clusters][kCluster]: one cluster at a scattered position of each of as many equal
// strata. Those of strata [c, stop).
inline void sample_keys(const Segment* segments, int64_t count, const Score& score, int64_t n,
                        int64_t clusters, int32_t* sample, int64_t c, int64_t stop) {
  const double stratum = double(n) / double(clusters);
  const auto position = [=](int64_t c) {
    const auto begin = int64_t(stratum * double(c)), end = int64_t(stratum * double(c + 1));
    const auto width = uint64_t(std::max<int64_t>(end - begin, 1));
    return std::min(begin + int64_t(scatter(c) * width >> 32), n - 1);
  };
  int64_t first = 0, s = 0;  // the first entry of segment s, over all
  while (c < stop) {
    int64_t p, at[32], some = 0;
    while (some < 32 && c + some < stop && (p = position(c + some) - first) < segments[s].numel)
      at[some++] = p / kCluster * kCluster;
    cluster_keys(segments[s].in, score, segments[s].numel, at, some, sample + c * kCluster);
    c += some;
    if (some < 32 && c < stop) first += segments[s++].numel;
  }
}

SPARSETRAIN_LOOP void count_from(const int32_t* keys, int64_t n, int32_t least, int64_t* count) {
  int32_t found = 0;
  for (int64_t i = 0; i < n; i++) found += keys[i] >= least;
  *count = found;
}

// A key that `least` to `most` of the sample reach or, where equal keys leave none, the largest
// that `least` reach; 0 if no candidate is. By halving: counting is so fast a loop that moving keys
// about would take longer.
inline int32_t ranked(const int32_t* sample, int64_t size, int64_t least, int64_t most) {
  int32_t key = 0;
  int64_t count = size;
  for (int32_t bit = 1 << 30; bit > 0 && count > most; bit >>= 1) {
    int64_t reach;
    simd<count_from>(sample, size, key + bit, &reach);
    if (reach < least) continue;
    key += bit;
    count = reach;
  }
  return key;
}

// The variance of how many of the sample reach `least`. Clusters are independent of each other,
// their keys are not: it is that of the clusters' counts, and no less than of independent keys.
inline double variance(const int32_t* sample, int64_t size, int32_t least, double p) {
  int64_t total = 0, squares = 0;
  for (int64_t i = 0; i < size; i += kCluster) {
    int64_t count = 0;
    for (int64_t j = 0; j < kCluster; j++) count += sample[i + j] >= least;
    total += count;
    squares += count * count;
  }
  const double mean = double(total) * kCluster / double(size);
  return std::max(double(squares) - double(total) * mean, p * (1 - p) * double(size));
}

// So many standard errors of the k-th largest's rank to either side, in the sample. Where equal
// keys would overflow `room`, the middle key alone, whose ties need none.
inline Bracket bracket_of_sample(const int32_t* sample, int64_t size, double errors, int64_t n,
                                 int64_t k, int64_t room) {
  const double p = double(k) / double(n);
  const auto middle = std::min(int64_t(p * double(size)), size - 1) + 1;
  const int32_t near = ranked(sample, size, middle, middle + size / 64);
  const auto slack = int64_t(errors * std::sqrt(variance(sample, size, near, p))) + 3;
  const int64_t slop = slack / 16;  // found with fewer halvings
  const int64_t high = middle - slack, low = middle + slack;
  const int32_t largest = int32_t(kInfinity);  // beyond are NaNs, which end the selection anyhow
  const int32_t hi =
      high <= slop ? largest : std::min(ranked(sample, size, high - slop, high), largest);
  const int32_t lo = low > size ? 0 : std::min(ranked(sample, size, low, low + slop), hi);
  int64_t from_lo, over_hi;
  simd<count_from>(sample, size, lo, &from_lo);
  simd<count_from>(sample, size, hi + 1, &over_hi);
  const double inside = double(from_lo - over_hi) * double(n) / double(size);
  if (inside < 0.9 * double(room)) return {lo, hi};
  const int32_t key = std::min(ranked(sample, size, middle, middle), hi);
  return {key, key};
}

}  // namespace sparsetrain
