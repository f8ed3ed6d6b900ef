// The decisions of topk_mask on the GPU (kernels/topk_mask.cuh): plain integers, host and device.
//
// A sample gives a bracket [lo, from) of keys that should hold the k-th largest. One pass keeps the
// keys >= from and collects those in the bracket as entries, numbers that sort ascending by
// (key descending, global index ascending). A radix select then finds how far to go among them.
#pragma once
#include <cmath>
#include <cstdint>

#include "keys.h"

namespace sparsetrain {
namespace {

constexpr int kDigitBits = 11, kBins = 1 << kDigitBits;
constexpr uint32_t kTopKey = 0x7fffffff;

// A search for the `need` smallest of some numbers, digit by digit from the top. What is known of
// the last one is its part above bit `shift`.
struct Selection {
  uint64_t prefix;
  int64_t need;  // how many of the numbers that begin with prefix
  int32_t shift;
  bool found;    // those with this prefix are needed all
  bool missing;  // there are fewer than `need` numbers
};

SPARSETRAIN_ANYWHERE Selection select_smallest(int64_t need, int bits) {
  return {0, need, bits, false, false};
}

SPARSETRAIN_ANYWHERE bool settled(const Selection& s) {
  return s.found || s.missing || s.shift == 0;
}

SPARSETRAIN_ANYWHERE bool begins(const Selection& s, uint64_t x) {
  return (x >> s.shift) == s.prefix;
}

SPARSETRAIN_ANYWHERE int width_of(const Selection& s) {
  return s.shift < kDigitBits ? s.shift : kDigitBits;
}

SPARSETRAIN_ANYWHERE uint32_t digit_of(const Selection& s, uint64_t x) {
  const int width = width_of(s);
  return uint32_t(x >> (s.shift - width)) & ((1u << width) - 1);
}

// The next digit is `digit`, which `count` numbers have; `before` have a smaller one.
SPARSETRAIN_ANYWHERE Selection narrowed(Selection s, uint32_t digit, int64_t before,
                                        int64_t count) {
  const int width = width_of(s);
  s.prefix = s.prefix << width | digit;
  s.shift -= width;
  s.need -= before;
  s.found = s.need == count;
  return s;
}

// Whether x comes before all that begin with the prefix.
SPARSETRAIN_ANYWHERE bool precedes(const Selection& s, uint64_t x) {
  return (x >> s.shift) < s.prefix;
}

// Keys turned round, so that the largest comes first; at least kNoCandidate for what is none.
SPARSETRAIN_ANYWHERE uint32_t turned(uint32_t key) { return kTopKey - key; }

// The i-th of `samples` places among numel: one in each of as many equal stretches.
SPARSETRAIN_ANYWHERE int64_t sample_place(int64_t i, int64_t samples, int64_t numel) {
  const int64_t width = numel / samples, rest = numel % samples;
  const int64_t begin = i * width + (i < rest ? i : rest);
  uint32_t hash = uint32_t(i) * 0x9e3779b1u;
  hash = (hash ^ hash >> 15) * 0x85ebca77u;
  return begin + int64_t(uint64_t(hash ^ hash >> 13) * uint64_t(width) >> 32);
}

// Ranks, from 1 for the largest, that the k-th of all keys lies between in the sample, but for 1 in
// 10 000 times: four standard deviations and a little. 0: none above.
struct Ranks {
  int64_t high, low;
};

inline Ranks sample_ranks(int64_t k, int64_t numel, int64_t samples) {
  const double share = double(k) / double(numel), mean = share * double(samples);
  const double slack = 4 * std::sqrt(mean * (share < 1 ? 1 - share : 0)) + 2;
  const double high = std::floor(mean - slack);
  return {high < 1 ? 0 : int64_t(high), int64_t(std::ceil(mean + slack))};
}

struct Bracket {
  uint32_t lo, from;
};

// The bracket between two selections among the turned keys of the sample.
SPARSETRAIN_ANYWHERE Bracket bracket_between(const Selection& high, const Selection& low) {
  const bool open = high.need < 1;
  const uint32_t below = uint32_t((low.prefix + 1) << low.shift) - 1;
  return {low.missing ? 0 : turned(below),
          open || high.missing ? kInfinity + 1 : turned(uint32_t(high.prefix << high.shift)) + 1};
}

SPARSETRAIN_ANYWHERE int bit_width(uint64_t x) {
  int bits = 0;
  for (; x != 0; x >>= 1) bits++;
  return bits;
}

SPARSETRAIN_ANYWHERE uint64_t entry_of(uint32_t key, uint32_t from, int64_t index, int index_bits) {
  return uint64_t(from - 1 - key) << index_bits | uint64_t(index);
}

SPARSETRAIN_ANYWHERE int64_t index_of(uint64_t entry, int index_bits) {
  return int64_t(entry & ((uint64_t(1) << index_bits) - 1));
}

SPARSETRAIN_ANYWHERE int entry_bits(const Bracket& b, int index_bits) {
  return bit_width(b.from - 1 - b.lo) + index_bits;
}

// What the streaming pass leaves to do.
enum class Route : int32_t {
  kDone,    // the masks are right
  kFinish,  // keep some of the bracket
  kRadix,   // the bracket missed or is too full: search all keys
  kClear    // no masks are possible: all false
};

struct Counts {
  int64_t above, inside, candidates, nan;
};

SPARSETRAIN_ANYWHERE Route route_of(const Counts& n, int64_t k, int64_t capacity, int bits) {
  if (n.nan > 0 || k > n.candidates) return Route::kClear;
  if (n.above == k) return Route::kDone;
  const bool caught = n.above < k && k <= n.above + n.inside;
  return caught && n.inside <= capacity && bits < 64 ? Route::kFinish : Route::kRadix;
}

}  // namespace
}  // namespace sparsetrain
