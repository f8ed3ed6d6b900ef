// The tensors that topk_mask selects from, cut into tiles, and the masks that it writes.
//
// Tiles are of a fixed size, whatever the number of threads. They start at whole bytes of a bit
// mask, so no two threads ever write to the same byte.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "score_keys.h"

namespace sparsetrain {

enum class MaskKind { kBytes, kBits };

struct Segment {
  ScoreInput in;
  uint8_t* keep;  // [numel] of 0 and 1, or [ceil(numel / 8)] with the lowest bit first
  MaskKind kind;
  int64_t numel;

  uint8_t* keep_from(int64_t i) const { return keep + (kind == MaskKind::kBits ? i / 8 : i); }
  void set_keep(int64_t i, bool kept) const {  // of an entry that is not kept yet
    if (kind == MaskKind::kBits)
      keep[i / 8] |= uint8_t(kept << (i & 7));
    else
      keep[i] = kept;
  }
};

struct Tile {
  int64_t segment, begin, end;
};

constexpr int64_t kTile = 1 << 13;  // its positions fit 16 bits

inline std::vector<Tile> tiles_of(const Segment* segments, int64_t count) {
  std::vector<Tile> tiles;
  for (int64_t s = 0; s < count; s++)
    for (int64_t b = 0; b < segments[s].numel; b += kTile)
      tiles.push_back({s, b, std::min(b + kTile, segments[s].numel)});
  return tiles;
}

// visit(keys, n, offset) for each block of the tile in turn.
template <typename Visit>
void for_each_block(const Segment& segment, const Tile& tile, const Score& score, Visit visit) {
  alignas(64) uint32_t keys[kBlock];
  for (int64_t i = tile.begin; i < tile.end; i += kBlock) {
    const int64_t n = std::min(kBlock, tile.end - i);
    score_keys(segment.in, score, i, n, keys);
    visit(keys, n, i);
  }
}

// ceil(n / 8) bytes of bits from n bytes of 0 and 1.
inline void pack_bits(const uint8_t* flags, uint8_t* bits, int64_t n) {
  for (int64_t i = 0; i < n; i += 8) {
    uint8_t byte = 0;
    for (int64_t j = i; j < std::min(i + 8, n); j++) byte |= uint8_t(flags[j] << (j - i));
    bits[i / 8] = byte;
  }
}

}  // namespace sparsetrain
