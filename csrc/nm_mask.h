// nm_mask on the CPU. What it computes: sparsetrain/ops/nm_mask.py.
//
// Scores become integers that sort like them. A block of groups is transposed in L1, so that one
// vector holds the same place of many groups, and every score is compared with the others of its
// group: m * (m - 1) compares a group, without a branch.
//
// Raw pointers only: the same loop serves the PyTorch op (torch/nm_mask.cpp) and anything without
// PyTorch.
#pragma once
#include <algorithm>
#include <cstdint>

#include "simd.h"

namespace sparsetrain {

constexpr int kNmGroups = 64;  // ranked at a time
constexpr int kNmMost = 32;    // scores in a group, at most

// The bits of a floating number as a signed integer of the same order: -0 equals 0, and NaN of
// either sign lies above infinity, whose bits are inf.
template <typename Bits, Bits inf>
SPARSETRAIN_LOOP Bits ordered(Bits x) {
  constexpr Bits sign_bit = Bits(Bits(1) << (8 * sizeof(Bits) - 1));
  const Bits magnitude = Bits(x & Bits(~sign_bit));
  const Bits sign = Bits(x >> (8 * sizeof(Bits) - 1));  // 0 or -1
  return magnitude > inf ? Bits(~sign_bit) : Bits((magnitude ^ sign) - sign);
}

// M is m where the compiler is to know it, else 0. beaten[i] = scores of the group that beat
// score i: greater ones, and equal ones before it.
template <typename Bits, Bits inf, int M>
SPARSETRAIN_LOOP void nm_mask_groups(const Bits* __restrict score, bool* __restrict keep,
                                     int64_t groups, int n, int any_m) {
  const int m = M ? M : any_m;
  alignas(64) Bits key[M ? M : kNmMost][kNmGroups] = {};
  alignas(64) Bits beaten[M ? M : kNmMost][kNmGroups];
  for (int64_t g = 0; g < groups; g += kNmGroups, score += kNmGroups * m, keep += kNmGroups * m) {
    const int lanes = int(std::min<int64_t>(kNmGroups, groups - g));
    for (int b = 0; b < lanes; b++)
      for (int i = 0; i < m; i++) key[i][b] = ordered<Bits, inf>(score[b * m + i]);
    for (int i = 0; i < m; i++) {
      for (int b = 0; b < kNmGroups; b++) beaten[i][b] = 0;
      for (int j = 0; j < i; j++)
        for (int b = 0; b < kNmGroups; b++) beaten[i][b] += key[j][b] >= key[i][b];
      for (int j = i + 1; j < m; j++)
        for (int b = 0; b < kNmGroups; b++) beaten[i][b] += key[j][b] > key[i][b];
    }
    for (int b = 0; b < lanes; b++)
      for (int i = 0; i < m; i++) keep[b * m + i] = beaten[i][b] < n;
  }
}

template <typename Bits, Bits inf>
void nm_mask(const Bits* score, bool* keep, int64_t groups, int n, int m) {
  switch (m) {
    case 2:
      return simd<nm_mask_groups<Bits, inf, 2>>(score, keep, groups, n, m);
    case 4:
      return simd<nm_mask_groups<Bits, inf, 4>>(score, keep, groups, n, m);
    case 8:
      return simd<nm_mask_groups<Bits, inf, 8>>(score, keep, groups, n, m);
    default:
      return simd<nm_mask_groups<Bits, inf, 0>>(score, keep, groups, n, m);
  }
}

}  // namespace sparsetrain
