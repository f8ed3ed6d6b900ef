// The blocked layout on the CPU: conversions. What it is: sparsetrain/ops/blocked.py.
//
// Numbers are moved as their bits. Lanes and pixels, or lanes and channels, change places in tiles
// of 4 lanes by 16 numbers: each cache line of the plain tensor is touched once, whole, even where
// its lanes lie a power of two apart and so compete for the same few lines of a cache.
//
// Raw pointers only: the same loop serves the PyTorch op (torch/blocked.cpp) and anything without
// PyTorch.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>

#include "simd.h"

#ifdef SPARSETRAIN_X86
#include <xmmintrin.h>
#endif

namespace sparsetrain {

// One channel of one block, [height + 2 hh, width + 2 hw, lanes]: `above` zeros; then `rows` times
// `side` zeros, `run` numbers, `side` zeros; then `above` zeros.
struct Plane {
  int64_t above, rows, side, run;
  int64_t pitch() const { return run + 2 * side; }
  int64_t size() const { return 2 * above + rows * pitch(); }
  int64_t at(int64_t row) const { return above + row * pitch() + side; }
};

inline Plane plane_of(int64_t height, int64_t width, int64_t lanes, int64_t hh, int64_t hw) {
  return {hh * (width + 2 * hw) * lanes, height, hw * lanes, width * lanes};
}

// As one long row, where nothing lies between its rows.
inline Plane joined(const Plane& p) { return p.side ? p : Plane{p.above, 1, 0, p.rows * p.run}; }

// The halo around this row, and above the first and below the last.
template <typename T>
void zero_beside(T* plane, const Plane& p, int64_t row) {
  T* const at = plane + p.at(row);
  const int64_t before = p.side + (row == 0 ? p.above : 0);
  const int64_t after = p.side + (row == p.rows - 1 ? p.above : 0);
  std::fill(at - before, at, T(0));
  std::fill(at + p.run, at + p.run + after, T(0));
}

template <typename T>
void zero_around(T* plane, const Plane& p) {
  for (int64_t row = 0; row < p.rows; row++) zero_beside(plane, p, row);
}

// to[c, r] = from[r, c] for r, c < 4
template <typename T>
SPARSETRAIN_LOOP void transpose4(const T* from, int64_t from_row, T* to, int64_t to_row) {
#ifdef SPARSETRAIN_X86
  if constexpr (sizeof(T) == 4) {
    const auto* f = reinterpret_cast<const float*>(from);
    auto* t = reinterpret_cast<float*>(to);
    __m128 a = _mm_loadu_ps(f), b = _mm_loadu_ps(f + from_row);
    __m128 c = _mm_loadu_ps(f + 2 * from_row), d = _mm_loadu_ps(f + 3 * from_row);
    _MM_TRANSPOSE4_PS(a, b, c, d);
    _mm_storeu_ps(t, a);
    _mm_storeu_ps(t + to_row, b);
    _mm_storeu_ps(t + 2 * to_row, c);
    _mm_storeu_ps(t + 3 * to_row, d);
    return;
  }
#endif
  for (int64_t c = 0; c < 4; c++)
    for (int64_t r = 0; r < 4; r++) to[c * to_row + r] = from[r * from_row + c];
}

// to[c, r] = from[r, c]
template <typename T>
void transpose(const T* from, int64_t from_row, int64_t rows, int64_t cols, T* to, int64_t to_row) {
  const int64_t r4 = rows & ~int64_t(3), c4 = cols & ~int64_t(3);
  for (int64_t r = 0; r < r4; r += 4)
    for (int64_t c = 0; c < c4; c += 4)
      transpose4(from + r * from_row + c, from_row, to + c * to_row + r, to_row);
  for (int64_t r = 0; r < rows; r++)
    for (int64_t c = r < r4 ? c4 : 0; c < cols; c++) to[c * to_row + r] = from[r * from_row + c];
}

constexpr int64_t kTile = 16;   // numbers of a lane that are moved together: a cache line of fp32
constexpr int64_t kLanes = 64;  // of a tile in the buffer

// Exactly one direction, `to` or back.
template <bool to, typename Plain, typename Blocked>
void move_tile(Plain* plain, int64_t lane, int64_t lanes, int64_t n, Blocked* blocked,
               int64_t next) {
  for (int64_t l = 0; l < lanes; l += 4) {
    const int64_t few = std::min<int64_t>(4, lanes - l);
    if constexpr (to)
      transpose(plain + l * lane, lane, few, n, blocked + l, next);
    else
      transpose(blocked + l, next, n, few, plain + l * lane, lane);
  }
}

struct Blocking {
  int64_t blocks, channels, height, width, lanes, hh, hw;
  Plane plane() const { return plane_of(height, width, lanes, hh, hw); }
};

// Between [N, C, H, W] in that order and blocked. Parallel(n, elements, f) calls f(begin, end) over
// [0, n), items of that many elements, on several threads.
template <bool to, typename Plain, typename Blocked, typename Parallel>
void move_planes(Plain* plain, Blocked* blocked, const Blocking& s, Parallel parallel) {
  const Plane p = joined(s.plane());
  const int64_t inner = s.height * s.width, lane = s.channels * inner, width = p.run / s.lanes;
  parallel(s.blocks * s.channels, p.size(), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      auto* from = plain + (i / s.channels * s.lanes * s.channels + i % s.channels) * inner;
      for (int64_t row = 0; row < p.rows; row++, from += width) {
        if constexpr (to) zero_beside(blocked + i * p.size(), p, row);
        auto* at = blocked + i * p.size() + p.at(row);
        for (int64_t x = 0; x < width; x += kTile)
          move_tile<to>(from + x, lane, s.lanes, std::min(kTile, width - x), at + x * s.lanes,
                        s.lanes);
      }
    }
  });
}

// One pixel of up to kTile channels, through a buffer because channels lie a plane apart.
template <bool to, typename Plain, typename Blocked>
void move_pixel(Plain* plain, int64_t lane, int64_t lanes, int64_t channels, Blocked* blocked,
                int64_t plane) {
  std::remove_const_t<Blocked> tile[kTile * kLanes];
  for (int64_t l = 0; l < lanes; l += kLanes, plain += kLanes * lane, blocked += kLanes) {
    const int64_t n = std::min(kLanes, lanes - l), bytes = n * sizeof(Blocked);
    if constexpr (to) move_tile<to>(plain, lane, n, channels, tile, kLanes);
    for (int64_t c = 0; c < channels; c++)
      if constexpr (to)
        std::memcpy(blocked + c * plane, tile + c * kLanes, bytes);
      else
        std::memcpy(tile + c * kLanes, blocked + c * plane, bytes);
    if constexpr (!to) move_tile<to>(plain, lane, n, channels, tile, kLanes);
  }
}

// Between [N, C, H, W] in the order of channels_last and blocked. One lane: its pixels, neighbours
// in both, take the part of the lanes.
template <bool to, typename Plain, typename Blocked, typename Parallel>
void move_rows(Plain* plain, Blocked* blocked, const Blocking& s, Parallel parallel) {
  const Plane p = s.plane();
  const bool single = s.lanes == 1;
  const int64_t image = s.height * s.width * s.channels, tiles = (s.channels + kTile - 1) / kTile;
  const int64_t pixels = single ? 1 : s.width, lanes = single ? s.width : s.lanes;
  const int64_t lane = single ? s.channels : image;
  parallel(s.blocks * tiles * s.height, kTile * p.run, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      const int64_t block = i / s.height / tiles, c = i / s.height % tiles * kTile;
      const int64_t row = i % s.height, n = std::min(kTile, s.channels - c);
      auto* planes = blocked + (block * s.channels + c) * p.size();
      if constexpr (to)
        for (int64_t k = 0; k < n; k++) zero_beside(planes + k * p.size(), p, row);
      auto* from = plain + block * s.lanes * image + row * s.width * s.channels + c;
      for (int64_t x = 0; x < pixels; x++)
        move_pixel<to>(from + x * s.channels, lane, lanes, n, planes + p.at(row) + x * s.lanes,
                       p.size());
    }
  });
}

// Planes with another halo.
template <typename T, typename Parallel>
void move_halo(const T* from, const Plane& a, T* to, const Plane& b, int64_t planes,
               Parallel parallel) {
  parallel(planes, b.size(), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++)
      for (int64_t row = 0; row < b.rows; row++) {
        zero_beside(to + i * b.size(), b, row);
        std::memcpy(to + i * b.size() + b.at(row), from + i * a.size() + a.at(row),
                    b.run * sizeof(T));
      }
  });
}

}  // namespace sparsetrain
