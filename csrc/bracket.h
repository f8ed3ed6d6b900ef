// Where topk_mask guesses that the k-th largest key lies: from the last selection, or a sample.
//
// A guess decides how long the selection takes and never what it selects. Bound by rank, not by
// value: a bracket is meant to hold few scores, whatever their distribution.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>

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

// The last threshold, moved by what k moved, if that is worth trying.
inline bool bracket_from_last(const Warm& warm, int64_t n, int64_t k, Bracket* bracket) {
  if (warm.key < 0 || warm.density <= 0) return false;
  const double center = warm.key + (warm.k - double(k)) / warm.density;
  if (2 * warm.half * warm.density > 0.5 * double(scratch_entries(n))) return false;
  if (!(center > 0 && center < double(kInfinity))) return false;
  bracket->lo = int32_t(std::max(center - warm.half, 0.0));
  bracket->hi = int32_t(std::min(center + warm.half, double(kInfinity)));
  return true;
}

// Remembers that the k-th largest is `key`, in a bracket that held `found` scores; with what was
// expected, the next half width: four times the error, and at least half of this one.
inline void remember(Warm& warm, uint32_t key, int64_t n, int64_t k, Bracket bracket,
                     int64_t found) {
  const double width = double(bracket.hi) - bracket.lo + 1;
  const double error = std::abs(double(key) - (double(bracket.lo) + bracket.hi) / 2);
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

// As many keys as make sampling and what it saves cost the same; one from each stratum.
inline int64_t sample_size(int64_t n) {
  const auto wanted = int64_t(std::pow(double(n), 2.0 / 3));
  return std::min({std::max<int64_t>(wanted, 1 << 11), n, scratch_entries(n)});
}

// sample, [size]: the signed keys at one scattered position of each of `size` equal strata.
inline void sample_keys(const Segment* segments, int64_t count, const Score& score, int64_t n,
                        int64_t size, int32_t* sample) {
  const auto position = [=](int64_t i) {
    const auto begin = int64_t(double(n) / double(size) * double(i));
    const auto end = int64_t(double(n) / double(size) * double(i + 1));
    return std::min(begin + int64_t(scatter(i) % uint64_t(std::max<int64_t>(end - begin, 1))),
                    n - 1);
  };
  int64_t i = 0, first = 0;  // first: of the segment, over all
  for (int64_t s = 0; s < count; first += segments[s++].numel) {
    const int64_t end = first + segments[s].numel;
    const ScoreInput& in = segments[s].in;
    const bool direct = with_floats(in, score, 0, [&](const auto& source) {
      for (int64_t p; i < size && (p = position(i)) < end; i++) sample[i] = source.key(p - first);
    });
    for (int64_t p; !direct && i < size && (p = position(i)) < end; i++) {
      uint32_t key;
      score_keys(in, score, p - first, 1, &key);
      sample[i] = int32_t(key);
    }
  }
}

// Four standard errors of the k-th largest's rank to either side, in the sample, which is sorted
// no further than that takes. Where equal keys would overflow `room`, the middle key alone, whose
// ties need none.
inline Bracket bracket_of_sample(int32_t* sample, int64_t size, int64_t n, int64_t k,
                                 int64_t room) {
  const double p = double(k) / double(n), middle = p * double(size);
  const double slack = 4 * std::sqrt(p * (1 - p) * double(size)) + 3;
  const auto high = int64_t(std::floor(middle - slack));
  const int64_t low = std::min(int64_t(middle + slack), size);
  const auto nth = [&](int64_t from, int64_t i) {
    std::nth_element(sample + from, sample + i, sample + size, std::greater<int32_t>());
    return sample[i];
  };
  const int32_t hi = high < 0 ? int32_t(kInfinity) : nth(0, high);
  const int64_t center = std::min(int64_t(middle), size - 1);
  const int32_t key = std::max(nth(std::max<int64_t>(high, 0), center), 0);
  const int32_t lo = low >= size ? 0 : std::max(nth(center, low), 0);
  const auto inside =
      std::count_if(sample, sample + size, [=](int32_t x) { return x >= lo && x <= hi; });
  const bool fits = double(inside) * double(n) / double(size) < 0.9 * double(room);
  return fits ? Bracket{lo, std::max(hi, lo)} : Bracket{key, key};
}

}  // namespace sparsetrain
