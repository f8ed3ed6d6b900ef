// The blocked layout on the CPU: conversions. What it is: sparsetrain/ops/blocked.py.
//
// Numbers are moved as their bits. Lanes and pixels, or lanes and channels, change places in tiles
// of four lanes. Lanes of a plain tensor often lie a power of two apart, and so compete for the
// same few lines of a cache: each of its lines is touched once, whole, and few are in use at a
// time.
//
// Raw pointers only: the same loop serves the PyTorch op (torch/blocked.cpp) and anything without
// PyTorch.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#include "simd.h"

#ifdef SPARSETRAIN_X86
#include <emmintrin.h>
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

// All of the halo.
template <typename T>
void zero_around(T* plane, const Plane& p) {
  T* from = plane;
  for (int64_t row = 0; row < p.rows; row++) {
    T* const at = plane + p.at(row);
    std::fill(from, at, T(0));
    from = at + p.run;
  }
  std::fill(from, plane + p.size(), T(0));
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
  if constexpr (sizeof(T) == 2) {
    const auto row = [&](int64_t r) {
      return _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from + r * from_row));
    };
    const __m128i ab = _mm_unpacklo_epi16(row(0), row(1)), cd = _mm_unpacklo_epi16(row(2), row(3));
    const __m128i columns[2] = {_mm_unpacklo_epi32(ab, cd), _mm_unpackhi_epi32(ab, cd)};
    for (int64_t c = 0; c < 4; c += 2) {
      _mm_storel_epi64(reinterpret_cast<__m128i*>(to + c * to_row), columns[c / 2]);
      _mm_storel_epi64(reinterpret_cast<__m128i*>(to + (c + 1) * to_row),
                       _mm_unpackhi_epi64(columns[c / 2], columns[c / 2]));
    }
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

constexpr int64_t kTile = 16;    // numbers of a lane that are moved together: a cache line of fp32
constexpr int64_t kPixels = 64;  // numbers of a channel that are moved together
constexpr int64_t kBurst = 1 << 11;  // numbers of all lanes that are moved together: well within L1

// Four lanes, or as many as there are, of n numbers each: exactly one direction, `to` or back.
template <bool to, typename Plain, typename Blocked>
void move_lanes(Plain* plain, int64_t lane, int64_t lanes, int64_t n, Blocked* blocked,
                int64_t next) {
  const int64_t few = std::min<int64_t>(4, lanes);
  if (next == 1) {
    if constexpr (to)
      std::copy_n(plain, n, blocked);
    else
      std::copy_n(blocked, n, plain);
  } else if constexpr (to)
    transpose(plain, lane, few, n, blocked, next);
  else
    transpose(blocked, next, n, few, plain, lane);
}

struct Blocking {
  int64_t blocks, channels, height, width, lanes, hh, hw;
  Plane plane() const { return plane_of(height, width, lanes, hh, hw); }
};

// Between [N, C, H, W] in that order and blocked: some rows of a plane at a time, four lanes after
// four, so that memory is read or written in few long runs. Parallel(n, elements, f) calls
// f(begin, end) over [0, n), items of that many elements, on several threads.
template <bool to, typename Plain, typename Blocked, typename Parallel>
void move_planes(Plain* plain, Blocked* blocked, const Blocking& s, Parallel parallel) {
  const Plane p = joined(s.plane());
  const int64_t inner = s.height * s.width, lane = s.channels * inner, width = p.run / s.lanes;
  const int64_t most = std::max(kTile, kBurst / s.lanes), rows = std::max<int64_t>(1, most / width);
  parallel(s.blocks * s.channels, p.size(), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      auto* plane = blocked + i * p.size();
      auto* image = plain + (i / s.channels * s.lanes * s.channels + i % s.channels) * inner;
      if constexpr (to) zero_around(plane, p);
      for (int64_t top = 0; top < p.rows; top += rows)
        for (int64_t x = 0; x < width; x += most)
          for (int64_t l = 0; l < s.lanes; l += 4)
            for (int64_t row = top; row < std::min(top + rows, p.rows); row++)
              move_lanes<to>(image + l * lane + row * width + x, lane, s.lanes - l,
                             std::min(most, width - x), plane + p.at(row) + x * s.lanes + l,
                             s.lanes);
    }
  });
}

// Pixels and lanes: how many, and how far from one to the next in the order of channels_last.
struct Steps {
  int64_t pixels, pixel, lanes, lane;
};

// Some pixels of up to kTile channels, through a buffer because channels lie a plane apart.
template <bool to, typename Plain, typename Blocked, typename T>
void move_pixels(Plain* plain, const Steps& s, int64_t channels, Blocked* blocked, int64_t plane,
                 T* buffer) {
  const int64_t run = s.pixels * s.lanes;
  const auto move = [&] {
    for (int64_t x = 0; x < s.pixels; x++)
      for (int64_t l = 0; l < s.lanes; l += 4)
        move_lanes<to>(plain + x * s.pixel + l * s.lane, s.lane, s.lanes - l, channels,
                       buffer + x * s.lanes + l, run);
  };
  if constexpr (to) move();
  for (int64_t c = 0; c < channels; c++)
    if constexpr (to)
      std::memcpy(blocked + c * plane, buffer + c * run, run * sizeof(T));
    else
      std::memcpy(buffer + c * run, blocked + c * plane, run * sizeof(T));
  if constexpr (!to) move();
}

// Between [N, C, H, W] in the order of channels_last and blocked: some pixels of all channels at a
// time, for the same reason. One lane: its pixels take the part of the lanes.
template <bool to, typename Plain, typename Blocked, typename Parallel>
void move_rows(Plain* plain, Blocked* blocked, const Blocking& s, Parallel parallel) {
  const Plane p = s.plane();
  const int64_t row_of = s.width * s.channels, image = s.height * row_of;
  const int64_t most = std::max<int64_t>(1, kPixels / s.lanes);
  parallel(s.blocks * s.height, s.channels * p.run, [&](int64_t begin, int64_t end) {
    std::vector<std::remove_const_t<Blocked>> buffer(kTile * most * s.lanes);
    for (int64_t i = begin; i < end; i++) {
      auto* from = plain + i / s.height * s.lanes * image + i % s.height * row_of;
      auto* planes = blocked + i / s.height * s.channels * p.size();
      const int64_t at = p.at(i % s.height);
      if constexpr (to)
        for (int64_t c = 0; c < s.channels; c++)
          zero_beside(planes + c * p.size(), p, i % s.height);
      for (int64_t x = 0; x < s.width; x += most) {
        const int64_t n = std::min(most, s.width - x);
        const Steps steps =
            s.lanes == 1 ? Steps{1, 0, n, s.channels} : Steps{n, s.channels, s.lanes, image};
        for (int64_t c = 0; c < s.channels; c += kTile)
          move_pixels<to>(from + x * s.channels + c, steps, std::min(kTile, s.channels - c),
                          planes + c * p.size() + at + x * s.lanes, p.size(), buffer.data());
      }
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
