// nm_mask_transposable on the CPU. What it computes: sparsetrain/ops/nm_mask_transposable.py.
//
// A block of tiles is transposed in L1, so that one vector holds the same place of many tiles. The
// sums of the six pairs of each row are taken once; each of the 90 masks is then three additions
// and a compare.
//
// Raw pointers only: the same loop serves the PyTorch op (torch/nm_mask_transposable.cpp) and
// anything without PyTorch.
#pragma once
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>

#include "simd.h"

namespace sparsetrain {

constexpr int kTiles = 32;  // judged at a time

// The pairs of columns that a row may keep.
constexpr bool kPairKept[6][4] = {{1, 1, 0, 0}, {1, 0, 1, 0}, {1, 0, 0, 1},
                                  {0, 1, 1, 0}, {0, 1, 0, 1}, {0, 0, 1, 1}};

// A mask of a tile: which pair each row keeps.
struct TileMask {
  int8_t row[4];
};

// The 90 masks with two kept in each row and column, in the order of their rows' pairs.
constexpr std::array<TileMask, 90> tile_masks() {
  std::array<TileMask, 90> found{};
  int count = 0;
  for (int i = 0; i < 6 * 6 * 6 * 6; i++) {
    const int row[4] = {i / 216, i / 36 % 6, i / 6 % 6, i % 6};
    bool valid = true;
    for (int c = 0; c < 4; c++) {
      int kept = 0;
      for (int r = 0; r < 4; r++) kept += kPairKept[row[r]][c];
      valid = valid && kept == 2;
    }
    if (!valid) continue;
    for (int r = 0; r < 4; r++) found[count].row[r] = int8_t(row[r]);
    count++;
  }
  return found;
}

inline constexpr std::array<TileMask, 90> kTileMasks = tile_masks();

// best[b] = index into kTileMasks of tile b's mask, from its rows' pair sums.
// Chosen by bits, where a compiler would make a branch of a condition.
template <typename T, typename Index>
SPARSETRAIN_LOOP void best_masks(const T (*__restrict pair)[6][kTiles], Index* __restrict best) {
  alignas(64) T most[kTiles];
  for (int b = 0; b < kTiles; b++) best[b] = 0;
  for (int b = 0; b < kTiles; b++)  // of the first mask
    most[b] = (pair[0][0][b] + pair[1][0][b]) + (pair[2][5][b] + pair[3][5][b]);
  for (int i = 1; i < 90; i++) {
    const int8_t* row = kTileMasks[i].row;
    alignas(64) T sum[kTiles];
    for (int b = 0; b < kTiles; b++) sum[b] = pair[0][row[0]][b] + pair[1][row[1]][b];
    for (int b = 0; b < kTiles; b++) sum[b] = sum[b] + (pair[2][row[2]][b] + pair[3][row[3]][b]);
    for (int b = 0; b < kTiles; b++) {
      const Index better = -Index(sum[b] > most[b]);  // 0 or -1
      best[b] ^= (best[b] ^ i) & better;
      most[b] = sum[b] > most[b] ? sum[b] : most[b];
    }
  }
}

// Four rows of `tiles` tiles; rows lie `stride` apart in score and keep.
template <typename T, typename Index>
SPARSETRAIN_LOOP void nm_mask_tiles(const T* __restrict score, bool* __restrict keep, int64_t tiles,
                                    int64_t stride) {
  alignas(64) T pair[4][6][kTiles] = {};
  alignas(64) Index best[kTiles];  // as wide as T
  for (int64_t t = 0; t < tiles; t += kTiles) {
    const int n = int(std::min<int64_t>(kTiles, tiles - t));
    for (int r = 0; r < 4; r++)
      for (int b = 0; b < n; b++) {
        const T* s = score + r * stride + 4 * (t + b);
        pair[r][0][b] = s[0] + s[1];
        pair[r][1][b] = s[0] + s[2];
        pair[r][2][b] = s[0] + s[3];
        pair[r][3][b] = s[1] + s[2];
        pair[r][4][b] = s[1] + s[3];
        pair[r][5][b] = s[2] + s[3];
      }
    best_masks(pair, best);
    for (int b = 0; b < n; b++)
      for (int r = 0; r < 4; r++)
        std::memcpy(keep + r * stride + 4 * (t + b), kPairKept[kTileMasks[best[b]].row[r]], 4);
  }
}

}  // namespace sparsetrain
