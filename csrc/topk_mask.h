// topk_mask on the CPU. What it computes: sparsetrain/ops/topk_mask.py.
//
// A radix select over the bits of the scores, the top 11, the middle 10, the low 10, finds the k-th
// largest key; one more pass writes the masks. Every pass recomputes the scores block by block in
// cache, so nothing is concatenated and no score is ever stored. Work is cut into chunks of a fixed
// size, whatever the number of threads, and only integers are added up across chunks.
//
// Raw pointers only: the same loop serves the PyTorch op (torch/topk_mask.cpp) and anything without
// PyTorch.
#pragma once
#include <algorithm>
#include <array>
#include <cstdint>
#include <mutex>
#include <vector>

#include "score_keys.h"

namespace sparsetrain {

struct Segment {
  ScoreInput in;
  bool* keep;
  int64_t numel;
};

struct Chunk {
  int64_t segment, begin, end;
};

constexpr int64_t kChunk = 1 << 16;

inline std::vector<Chunk> chunks_of(const std::vector<Segment>& segments) {
  std::vector<Chunk> chunks;
  for (size_t s = 0; s < segments.size(); s++)
    for (int64_t b = 0; b < segments[s].numel; b += kChunk)
      chunks.push_back({int64_t(s), b, std::min(b + kChunk, segments[s].numel)});
  return chunks;
}

// visit(keys, n, offset) for each block of the chunk in turn.
template <typename Visit>
void for_each_block(const Segment& segment, const Chunk& chunk, const Score& score, Visit visit) {
  alignas(64) uint32_t keys[kBlock];
  for (int64_t i = chunk.begin; i < chunk.end; i += kBlock) {
    const int64_t n = std::min(kBlock, chunk.end - i);
    score_keys(segment.in, score, i, n, keys);
    visit(keys, n, i);
  }
}

// Counts of one digit of the keys. Four copies, since equal digits often follow each other and an
// increment must wait for the one before it on the same counter.
struct Histogram {
  static constexpr int kCopies = 4, kBins = 2049;  // the last bin: keys that are no candidates
  std::vector<int64_t> counts = std::vector<int64_t>(kCopies * kBins);

  // Counts the digits key >> shift & mask.
  void add(const uint32_t* keys, int64_t n, int shift, uint32_t mask) {
    int64_t* to = counts.data();
    int64_t i = 0;
    for (; i + kCopies <= n; i += kCopies)
      for (int c = 0; c < kCopies; c++) to[c * kBins + (keys[i + c] >> shift & mask)]++;
    for (; i < n; i++) to[keys[i] >> shift & mask]++;
  }
  void merge_into(std::array<int64_t, kBins>& total) const {
    for (int c = 0; c < kCopies; c++)
      for (int b = 0; b < kBins; b++) total[b] += counts[c * kBins + b];
  }
};

// The keys in [first, first + span), packed; returns how many. Without a branch, since which keys
// match is noise to a predictor, and not in place, where a load would wait for the stores.
inline int64_t pack(const uint32_t* __restrict keys, uint32_t* __restrict out, int64_t n,
                    uint32_t first, uint32_t span) {
  int64_t found = 0;
  for (int64_t i = 0; i < n; i++) {
    out[found] = keys[i];
    found += keys[i] - first < span;
  }
  return found;
}

SPARSETRAIN_LOOP void count_nan(const uint32_t* keys, int64_t n, int64_t* nan) {
  int32_t found = 0;
  for (int64_t i = 0; i < n; i++) found += (keys[i] > kInfinity) & (keys[i] < kNoCandidate);
  *nan += found;
}

// keep = key >= from, for candidates; counts the keys that equal tie.
SPARSETRAIN_LOOP void mark(const uint32_t* keys, bool* keep, int64_t n, uint32_t from, uint32_t tie,
                           int64_t* ties) {
  int32_t found = 0;
  for (int64_t i = 0; i < n; i++) {
    keep[i] = (keys[i] >= from) & (keys[i] < kNoCandidate);
    found += keys[i] == tie;
  }
  *ties += found;
}

// The decision: keep keys >= from, and the first `ties` of those that equal tie.
struct Cut {
  uint32_t from, tie;
  int64_t ties;
};

// The passes over all chunks; Parallel(n, f) calls f(begin, end) over [0, n) on several threads.
template <typename Parallel>
class TopkMask {
 public:
  TopkMask(const std::vector<Segment>& segments, const Score& score, Parallel parallel)
      : segments_(segments), score_(score), parallel_(parallel), chunks_(chunks_of(segments)) {}

  // Masks with k true; where k exceeds the candidates or a score is NaN they are all false.
  // nan, [segments]: NaN scores in each. Returns the number of candidates.
  int64_t run(int64_t k, int64_t* nan) {
    std::array<int64_t, Histogram::kBins> counts = top_digits(nan);
    int64_t candidates = 0, bad = 0;
    for (int b = 0; b < Histogram::kBins - 1; b++) candidates += counts[b];
    for (size_t s = 0; s < segments_.size(); s++) bad += nan[s];
    const bool possible = bad == 0 && k <= candidates;
    write(possible ? cut_at(k, candidates, counts) : kNothing);
    return candidates;
  }

 private:
  static constexpr Cut kNothing{kNoCandidate, kNoCandidate + 1, 0};

  template <typename Visit>
  void visit_blocks(int64_t c, Visit visit) {
    for_each_block(segments_[chunks_[c].segment], chunks_[c], score_, visit);
  }

  std::array<int64_t, Histogram::kBins> top_digits(int64_t* nan) {
    std::array<int64_t, Histogram::kBins> total{};
    std::mutex lock;
    parallel_(chunks_.size(), [&](int64_t begin, int64_t end) {
      Histogram histogram;
      std::vector<int64_t> bad(segments_.size());
      for (int64_t c = begin; c < end; c++)
        visit_blocks(c, [&](const uint32_t* keys, int64_t n, int64_t) {
          simd<count_nan>(keys, n, &bad[chunks_[c].segment]);
          histogram.add(keys, n, 20, 0xfff);
        });
      std::lock_guard<std::mutex> guard(lock);
      histogram.merge_into(total);
      for (size_t s = 0; s < bad.size(); s++) nan[s] += bad[s];
    });
    return total;
  }

  // Counts of the 10 bits under the prefix, which is the key's part from bit `below` up.
  std::array<int64_t, Histogram::kBins> next_digits(uint32_t prefix, int below) {
    std::array<int64_t, Histogram::kBins> total{};
    std::mutex lock;
    parallel_(chunks_.size(), [&](int64_t begin, int64_t end) {
      Histogram histogram;
      alignas(64) uint32_t packed[kBlock];
      for (int64_t c = begin; c < end; c++)
        visit_blocks(c, [&](const uint32_t* keys, int64_t n, int64_t) {
          const int64_t found = pack(keys, packed, n, prefix << below, 1u << below);
          histogram.add(packed, found, below - 10, 0x3ff);
        });
      std::lock_guard<std::mutex> guard(lock);
      histogram.merge_into(total);
    });
    return total;
  }

  // The digit of the k-th largest; k becomes its rank among those with the same digit.
  static uint32_t digit_of(int64_t& k, const std::array<int64_t, Histogram::kBins>& counts) {
    uint32_t digit = Histogram::kBins - 2;
    while (counts[digit] < k) k -= counts[digit--];
    return digit;
  }

  Cut cut_at(int64_t k, int64_t candidates, const std::array<int64_t, Histogram::kBins>& counts) {
    if (k == 0) return kNothing;
    if (k == candidates) return {0, kNoCandidate + 1, 0};
    uint32_t key = digit_of(k, counts);
    key = key << 10 | digit_of(k, next_digits(key, 20));
    const auto last = next_digits(key, 10);
    const uint32_t digit = digit_of(k, last);
    key = key << 10 | digit;
    if (k == last[digit]) return {key, kNoCandidate + 1, 0};  // every tie is kept
    return {key + 1, key, k};
  }

  void write(const Cut& cut) {
    std::vector<int64_t> ties(chunks_.size());
    parallel_(chunks_.size(), [&](int64_t begin, int64_t end) {
      for (int64_t c = begin; c < end; c++) {
        bool* keep = segments_[chunks_[c].segment].keep;
        visit_blocks(c, [&](const uint32_t* keys, int64_t n, int64_t offset) {
          simd<mark>(keys, keep + offset, n, cut.from, cut.tie, &ties[c]);
        });
      }
    });
    int64_t left = cut.ties;  // turned into each chunk's share, first come, first served
    for (int64_t& t : ties) left -= t = std::min(t, left);
    if (cut.ties > 0) write_ties(cut.tie, ties);
  }

  void write_ties(uint32_t tie, const std::vector<int64_t>& share) {
    parallel_(chunks_.size(), [&](int64_t begin, int64_t end) {
      for (int64_t c = begin; c < end; c++) {
        int64_t left = share[c];
        if (left == 0) continue;
        bool* keep = segments_[chunks_[c].segment].keep;
        visit_blocks(c, [&](const uint32_t* keys, int64_t n, int64_t offset) {
          for (int64_t i = 0; i < n && left > 0; i++)
            if (keys[i] == tie) keep[offset + i] = true, left--;
        });
      }
    });
  }

  const std::vector<Segment>& segments_;
  const Score score_;
  Parallel parallel_;
  const std::vector<Chunk> chunks_;
};

}  // namespace sparsetrain
