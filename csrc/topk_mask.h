// topk_mask on the CPU. What it computes: sparsetrain/ops/topk_mask.py.
//
// A bracket of keys is guessed that holds the k-th largest (bracket.h). One pass over the tensors
// counts what is above it, writes the masks as if nothing in it were kept, and packs what lies in
// it with its positions (stream.h); a radix select over those finds the k-th largest, and those
// that win are set. Where the guess was wrong, or the packed keys do not fit, a radix select over
// all scores, recomputed in each pass, finishes instead (radix.h). Either way nothing is
// concatenated, no score is stored but the packed ones, and the masks are the same: only integers
// are added up across tiles, and ties are shared out in the tiles' order.
//
// Raw pointers only: the same loop serves the PyTorch op (torch/topk_mask.cpp) and anything without
// PyTorch.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "bracket.h"
#include "radix.h"
#include "segments.h"
#include "stream.h"
#include "vec.h"

namespace sparsetrain {

SPARSETRAIN_LOOP void count_nan(const uint32_t* keys, int64_t n, int64_t* nan) {
  int32_t found = 0;
  for (int64_t i = 0; i < n; i++) found += (keys[i] > kInfinity) & (keys[i] < kNoCandidate);
  *nan += found;
}

SPARSETRAIN_LOOP void count_true(const bool* within, int64_t n, int64_t* count) {
  const auto* candidate = reinterpret_cast<const uint8_t*>(within);
  int64_t found = 0;
  for (int64_t i = 0; i < n; i++) found += candidate[i] != 0;
  *count += found;
}

// keep = key >= from, for candidates; counts the keys that equal tie.
SPARSETRAIN_LOOP void mark(const uint32_t* keys, uint8_t* keep, int64_t n, uint32_t from,
                           uint32_t tie, int64_t* ties) {
  int32_t found = 0;
  for (int64_t i = 0; i < n; i++) {
    keep[i] = (keys[i] >= from) & (keys[i] < kNoCandidate);
    found += keys[i] == tie;
  }
  *ties += found;
}

// Keys of a tile that were packed: [count] from `offset` of the scratch memory.
struct Packed {
  int64_t offset, count;
};

// The packed keys of all tiles, as a source for cut_at. Six bytes an entry, in no order of tiles.
class Scratch {
 public:
  explicit Scratch(int64_t n)
      : entries(scratch_entries(n)), keys(new uint32_t[entries]), at(new uint16_t[entries]) {}

  const int64_t entries;
  const std::unique_ptr<uint32_t[]> keys;
  const std::unique_ptr<uint16_t[]> at;
  std::atomic<int64_t> used{0};  // counted past the end, where nothing is written

  Packed put(const Found& found) {
    const int64_t offset = used.fetch_add(found.count);
    if (offset + found.count <= entries) {
      std::memcpy(&keys[offset], found.keys, found.count * sizeof keys[0]);
      std::memcpy(&at[offset], found.at, found.count * sizeof at[0]);
    }
    return {offset, found.count};
  }
  int64_t blocks() const { return (used + kBlock - 1) / kBlock; }
  template <typename Visit>
  void visit(int64_t b, Visit f) const {
    f(&keys[b * kBlock], std::min<int64_t>(kBlock, used - b * kBlock));
  }
};

// What one pass over all tiles adds up to.
struct Stream {
  int64_t above = 0, found = 0;
  int32_t top = INT32_MIN;
};

// Parallel(n, f) calls f(begin, end) over [0, n) on several threads.
template <typename Parallel>
class TopkMask {
 public:
  TopkMask(const Segment* segments, int64_t count, const Score& score, Parallel parallel)
      : segments_(segments),
        count_(count),
        score_(score),
        parallel_(parallel),
        tiles_(tiles_of(segments, count)) {
    for (int64_t s = 0; s < count; s++) n_ += segments[s].numel;
  }

  // Masks with k true; where k exceeds the candidates or a score is NaN they are all false.
  // nan, [segments]: NaN scores in each. Returns the number of candidates.
  int64_t run(int64_t k, int64_t* nan, Warm& warm) {
    std::fill(nan, nan + count_, 0);
    const int64_t candidates = count_candidates();
    if (k > candidates || !by_bracket(k, warm)) {
      by_radix(k, candidates, nan);
      warm = Warm();
      warm.path = kByRadix;
    }
    return candidates;
  }

  // The same without a guess.
  int64_t run_radix(int64_t k, int64_t* nan) {
    std::fill(nan, nan + count_, 0);
    const int64_t candidates = count_candidates();
    by_radix(k, candidates, nan);
    return candidates;
  }

  // As a source for cut_at: all keys, made anew in each visit.
  int64_t blocks() const { return int64_t(tiles_.size()); }
  template <typename Visit>
  void visit(int64_t t, Visit f) const {
    visit_blocks(t, [&](const uint32_t* keys, int64_t n, int64_t) { f(keys, n); });
  }

 private:
  const Segment& segment_of(int64_t t) const { return segments_[tiles_[t].segment]; }
  template <typename Visit>
  void visit_blocks(int64_t t, Visit visit) const {
    for_each_block(segment_of(t), tiles_[t], score_, visit);
  }

  template <typename Work>
  void for_each_tile(Work work) {
    parallel_(blocks(), [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; t++) work(t);
    });
  }

  int64_t count_candidates() {
    if (count_ == 0 || !segments_[0].in.within) return n_;
    std::atomic<int64_t> total{0};
    for_each_tile([&](int64_t t) {
      int64_t count = 0;
      simd<count_true>(segment_of(t).in.within + tiles_[t].begin, tiles_[t].end - tiles_[t].begin,
                       &count);
      total += count;
    });
    return total;
  }

  bool by_bracket(int64_t k, Warm& warm) {
    if (n_ == 0) return true;
    Scratch scratch(n_);
    Bracket bracket = kWhole;
    const double expected = expected_key(warm, k);
    if (n_ > kSmall && bracket_from_last(warm, expected, n_, &bracket)) {
      warm.path = kFromLast;
      if (select_in(bracket, k, expected, scratch, warm)) return true;
    }
    warm.path = kFromSample;
    if (n_ <= kSmall) return select_in(bracket, k, expected, scratch, warm);
    // One in 370 falls out of three errors, which is cheaper than what more would always pack.
    return select_in(sampled(k, 3, scratch), k, expected, scratch, warm) ||
           select_in(sampled(k, 8, scratch), k, expected, scratch, warm);
  }

  Bracket sampled(int64_t k, double errors, const Scratch& scratch) {
    const int64_t size = sample_size(n_);
    auto* sample = reinterpret_cast<int32_t*>(scratch.keys.get());
    const int64_t clusters = size / kCluster, some = 128;  // that a thread takes at a time
    parallel_((clusters + some - 1) / some, [&](int64_t begin, int64_t end) {
      sample_keys(segments_, count_, score_, n_, clusters, sample, begin * some,
                  std::min(end * some, clusters));
    });
    return bracket_of_sample(sample, size, errors, n_, k, scratch.entries);
  }

  // Whether the k-th largest was in the bracket, and the masks are written.
  bool select_in(Bracket bracket, int64_t k, double expected, Scratch& scratch, Warm& warm) {
    std::vector<Packed> packed(tiles_.size());
    const Stream pass = stream(bracket, scratch, packed);
    const int64_t rank = k - pass.above;
    if (pass.top > int32_t(kInfinity) || rank < 0 || rank > pass.found) return false;
    const auto lo = uint32_t(bracket.lo), hi = uint32_t(bracket.hi);
    Cut cut{hi + 1, hi + 1, 0};
    if (pass.found > scratch.entries) {  // of which none is stored, nor need be where all are equal
      if (lo != hi) return false;
      std::vector<int64_t> ties;
      for (const Packed& p : packed) ties.push_back(p.count);
      write_ties({hi + 1, hi, rank}, ties);
    } else if (rank > 0) {
      int bits = 0;
      while (bits < kKeyBits && (hi - lo) >> bits) bits++;
      cut = cut_at(scratch, {lo, bits}, rank, pass.found, parallel_);
      set_packed(cut, scratch, packed);
    }
    remember(warm, std::min(cut.from, hi), expected, n_, k, bracket, pass.found);
    return true;
  }

  Stream stream(Bracket bracket, Scratch& scratch, std::vector<Packed>& packed) {
    Stream total;
    std::mutex lock;
    scratch.used = 0;
    parallel_(blocks(), [&](int64_t begin, int64_t end) {
      Stream mine;
      const auto found = std::make_unique<Found>();
      for (int64_t t = begin; t < end; t++) {
        found->count = 0;
        const bool bits = segment_of(t).kind == MaskKind::kBits;
        const auto run = bits ? stream_tile<MaskKind::kBits> : stream_tile<MaskKind::kBytes>;
        run(segment_of(t), tiles_[t], score_, bracket, *found);
        packed[t] = scratch.put(*found);
        mine.found += found->count;
      }
      std::lock_guard<std::mutex> guard(lock);
      total.above += found->above;
      total.found += mine.found;
      total.top = std::max(total.top, found->top);
    });
    return total;
  }

  // Without a branch, as half of the packed keys are kept, and on copies, which no byte of a mask
  // can be taken to change.
  void set_packed(const Cut& cut, const Scratch& scratch, const std::vector<Packed>& packed) {
    std::vector<int64_t> ties(tiles_.size());
    for_each_tile([&](int64_t t) {
      const Segment segment = segment_of(t);
      const Packed mine = packed[t];
      const uint32_t *keys = &scratch.keys[mine.offset], from = cut.from, tie = cut.tie;
      const uint16_t* at = &scratch.at[mine.offset];
      const int64_t begin = tiles_[t].begin;
      for (int64_t i = 0; i < mine.count; i++) prefetch(segment.keep_from(begin + at[i]));
      int64_t found = 0;
      for (int64_t i = 0; i < mine.count; i++) {
        segment.set_keep(begin + at[i], keys[i] >= from);
        found += keys[i] == tie;
      }
      ties[t] = found;
    });
    if (cut.ties == 0) return;
    share_out(cut.ties, ties);
    for_each_tile([&](int64_t t) {
      for (int64_t i = packed[t].offset, left = ties[t]; left > 0; i++)
        if (scratch.keys[i] == cut.tie)
          segment_of(t).set_keep(tiles_[t].begin + scratch.at[i], true), left--;
    });
  }

  void by_radix(int64_t k, int64_t candidates, int64_t* nan) {
    count_nans(nan);
    const bool possible =
        k <= candidates && std::all_of(nan, nan + count_, [](int64_t x) { return x == 0; });
    if (!possible || k == 0) return write(kKeepNothing);
    if (k == candidates) return write(kKeepAll);
    write(cut_at(*this, {0, kKeyBits}, k, candidates, parallel_));
  }

  void count_nans(int64_t* nan) {
    std::mutex lock;
    for_each_tile([&](int64_t t) {
      int64_t bad = 0;
      visit(t, [&](const uint32_t* keys, int64_t n) { simd<count_nan>(keys, n, &bad); });
      if (bad == 0) return;
      std::lock_guard<std::mutex> guard(lock);
      nan[tiles_[t].segment] += bad;
    });
  }

  void write(const Cut& cut) {
    std::vector<int64_t> ties(tiles_.size());
    for_each_tile([&](int64_t t) {
      const Segment& segment = segment_of(t);
      visit_blocks(t, [&](const uint32_t* keys, int64_t n, int64_t i) {
        uint8_t flags[kBlock], *keep = segment.keep_from(i);
        const bool bits = segment.kind == MaskKind::kBits;
        simd<mark>(keys, bits ? flags : keep, n, cut.from, cut.tie, &ties[t]);
        if (bits) pack_bits(flags, keep, n);
      });
    });
    write_ties(cut, ties);
  }

  // Turns how many ties each tile has into how many are kept: first come, first served.
  static void share_out(int64_t left, std::vector<int64_t>& ties) {
    for (int64_t& t : ties) left -= t = std::min(t, left);
  }

  // Of the keys that equal cut.tie, ties[t] in tile t, sets the first cut.ties.
  void write_ties(const Cut& cut, std::vector<int64_t>& ties) {
    if (cut.ties == 0) return;
    share_out(cut.ties, ties);
    for_each_tile([&](int64_t t) {
      int64_t mine = ties[t];
      if (mine == 0) return;
      visit_blocks(t, [&](const uint32_t* keys, int64_t n, int64_t offset) {
        for (int64_t i = 0; i < n && mine > 0; i++)
          if (keys[i] == cut.tie) segment_of(t).set_keep(offset + i, true), mine--;
      });
    });
  }

  const Segment* const segments_;
  const int64_t count_;
  const Score score_;
  Parallel parallel_;
  const std::vector<Tile> tiles_;
  int64_t n_ = 0;
};

}  // namespace sparsetrain
