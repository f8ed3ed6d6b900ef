// The k-th largest of many keys, digit by digit from the top: the exact end of topk_mask.
//
// Keys come in blocks from a source with `blocks()` and `visit(block, f)`, which calls
// f(keys, n) once or more; they may be recomputed in every pass, so nothing need be stored.
#pragma once
#include <algorithm>
#include <array>
#include <cstdint>
#include <mutex>
#include <vector>

#include "score_keys.h"

namespace sparsetrain {

constexpr int kDigitBits = 11, kKeyBits = 31;

// Counts of one digit of the keys. Four copies, since equal digits often follow each other and an
// increment must wait for the one before it on the same counter.
struct Histogram {
  static constexpr int kCopies = 4, kBins = (1 << kDigitBits) + 1;  // the last: no candidates
  using Total = std::array<int64_t, kBins>;
  std::vector<int64_t> counts = std::vector<int64_t>(kCopies * kBins);

  // Counts the digits key >> shift, at most kBins - 1.
  void add(const uint32_t* keys, int64_t n, int shift) {
    int64_t* to = counts.data();
    int64_t i = 0;
    for (; i + kCopies <= n; i += kCopies)
      for (int c = 0; c < kCopies; c++) to[c * kBins + (keys[i + c] >> shift)]++;
    for (; i < n; i++) to[keys[i] >> shift]++;
  }
  void merge_into(Total& total) const {
    for (int c = 0; c < kCopies; c++)
      for (int b = 0; b < kBins; b++) total[b] += counts[c * kBins + b];
  }
};

// The keys in [first, first + span) less first, packed; returns how many. Without a branch, since
// which keys match is noise to a predictor, and not in place, where a load would wait for the
// stores.
inline int64_t pack(const uint32_t* __restrict keys, uint32_t* __restrict out, int64_t n,
                    uint32_t first, uint32_t span) {
  int64_t found = 0;
  for (int64_t i = 0; i < n; i++) {
    out[found] = keys[i] - first;
    found += keys[i] - first < span;
  }
  return found;
}

// The decision: keep keys >= from, and the first `ties` of those that equal tie.
struct Cut {
  uint32_t from, tie;
  int64_t ties;
};

constexpr Cut kKeepNothing{kNoCandidate, kNoCandidate + 1, 0};
constexpr Cut kKeepAll{0, kNoCandidate + 1, 0};

// Keys in [first, first + 2^bits), among which the k-th largest is sought.
struct Range {
  uint32_t first;
  int bits;

  int shift() const { return std::max(bits - kDigitBits, 0); }

  // Narrows to the digit of the k-th largest; k becomes its rank there. Returns how many are left.
  int64_t narrow(int64_t& k, const Histogram::Total& counts) {
    uint32_t digit = Histogram::kBins - 2;
    // Ends there at the latest, should another thread have changed the scores since.
    while (digit > 0 && counts[digit] < k) k -= counts[digit--];
    first += digit << shift();
    bits = shift();
    return counts[digit];
  }
};

template <typename Keys, typename Parallel>
Histogram::Total count_digits(const Keys& source, const Range& range, Parallel parallel) {
  Histogram::Total total{};
  std::mutex lock;
  parallel(source.blocks(), [&](int64_t begin, int64_t end) {
    Histogram histogram;
    alignas(64) uint32_t packed[kBlock];
    for (int64_t b = begin; b < end; b++)
      source.visit(b, [&](const uint32_t* keys, int64_t n) {
        const int64_t found = pack(keys, packed, n, range.first, 1u << range.bits);
        histogram.add(packed, found, range.shift());
      });
    std::lock_guard<std::mutex> guard(lock);
    histogram.merge_into(total);
  });
  return total;
}

// Keeps the k largest, 1 <= k <= all keys in the range, `left` of them.
template <typename Keys, typename Parallel>
Cut cut_at(const Keys& source, Range range, int64_t k, int64_t left, Parallel parallel) {
  while (range.bits > 0) left = range.narrow(k, count_digits(source, range, parallel));
  if (k == left) return {range.first, kNoCandidate + 1, 0};  // every tie is kept
  return {range.first + 1, range.first, k};
}

}  // namespace sparsetrain
