// blocked_max_pool and blocked_avg_pool on the CPU. What they compute:
// sparsetrain/ops/blocked_pool.py.
//
// A plane at a time, each output pixel with up to sixteen lanes in registers. Forward reads x once
// and writes y, and for the maximum a byte that says where in its window it was; backward reads
// these and dy and writes dx, of which a plane stays in a cache while it is added up. Nothing else
// is saved. bf16 is computed in fp32.
//
// Raw pointers only: the same loops serve the PyTorch ops (torch/blocked_pool.cpp) and anything
// without PyTorch.
#pragma once
#include <algorithm>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <vector>

#include "blocked.h"
#include "floats.h"
#include "simd.h"

// Before a loop that chooses: GCC unrolls it before it can see vectors in it, unless told not to.
#if defined(__GNUC__) && !defined(__clang__)
#define SPARSETRAIN_ROLLED _Pragma("GCC unroll 1")
#else
#define SPARSETRAIN_ROLLED
#endif

namespace sparsetrain {

// Of one axis, for each output: the first input, the one after the last, and the window's length
// that a mean divides by.
struct Windows {
  const int64_t* numbers;
  int64_t count;
  int64_t begin(int64_t i) const { return numbers[3 * i]; }
  int64_t end(int64_t i) const { return numbers[3 * i + 1]; }
  int64_t length(int64_t i) const { return numbers[3 * i + 2]; }
};

// What a plane is pooled from and to, and by which windows. place has no halo.
struct Pooling {
  Plane from, to;
  Windows rows, columns;
  int64_t lanes;
};

// f(output, row, column, lane, place): offsets of V lanes of y and of place, in order
template <int V, typename F>
SPARSETRAIN_LOOP void each_output(const Pooling& p, const F& f) {
  for (int64_t i = 0, place = 0; i < p.rows.count; i++)
    for (int64_t j = 0; j < p.columns.count; j++)
      for (int64_t l = 0; l < p.lanes; l += V, place += V)
        f(p.to.at(i) + j * p.lanes + l, i, j, l, place);
}

// f(input's offset), in order, of one output's lanes from l on
template <typename F>
SPARSETRAIN_LOOP void each_input(const Pooling& p, int64_t i, int64_t j, int64_t l, const F& f) {
  for (int64_t y = p.rows.begin(i); y < p.rows.end(i); y++)
    for (int64_t x = p.columns.begin(j); x < p.columns.end(j); x++)
      f(p.from.at(y) + x * p.lanes + l);
}

// As wide as a number, so that a loop over both vectorises.
template <typename Real>
using AsWide = std::conditional_t<sizeof(Real) == 4, int32_t, int64_t>;

// A later number wins only if it is larger, or NaN.
template <typename T, int V>
SPARSETRAIN_LOOP void max_pool_plane(const T* x, Pooling p, T* y, uint8_t* places) {
  using Real = RealOf<T>;
  using Int = AsWide<Real>;
  each_output<V>(p, [&](int64_t out, int64_t i, int64_t j, int64_t l, int64_t place) {
    Real best[V];
    Int at[V], k = 0;
    for (int v = 0; v < V; v++) best[v] = -std::numeric_limits<Real>::infinity(), at[v] = 0;
    each_input(p, i, j, l, [&](int64_t in) {
      SPARSETRAIN_ROLLED
      for (int v = 0; v < V; v++) {
        const Real number = x[in + v];
        const bool wins = (number > best[v]) | (number != number);
        best[v] = wins ? number : best[v];
        at[v] = wins ? k : at[v];
      }
      k++;
    });
    for (int v = 0; v < V; v++) y[out + v] = best[v];
    for (int v = 0; v < V; v++) places[place + v] = uint8_t(at[v]);
  });
}

template <typename T, int V>
SPARSETRAIN_LOOP void max_pool_plane_backward(const T* dy, const uint8_t* places, Pooling p,
                                              RealOf<T>* dx) {
  using Real = RealOf<T>;
  using Int = AsWide<Real>;
  each_output<V>(p, [&](int64_t out, int64_t i, int64_t j, int64_t l, int64_t place) {
    Real of[V];
    Int at[V], k = 0;
    for (int v = 0; v < V; v++) of[v] = dy[out + v];
    for (int v = 0; v < V; v++) at[v] = places[place + v];
    each_input(p, i, j, l, [&](int64_t in) {
      SPARSETRAIN_ROLLED
      for (int v = 0; v < V; v++) dx[in + v] += at[v] == k ? of[v] : Real(0);
      k++;
    });
  });
}

template <typename T, int V>
SPARSETRAIN_LOOP void avg_pool_plane(const T* x, Pooling p, T* y) {
  each_output<V>(p, [&](int64_t out, int64_t i, int64_t j, int64_t l, int64_t) {
    RealOf<T> sum[V] = {};
    each_input(p, i, j, l, [&](int64_t in) {
      for (int v = 0; v < V; v++) sum[v] += x[in + v];
    });
    const auto by = RealOf<T>(p.rows.length(i) * p.columns.length(j));
    for (int v = 0; v < V; v++) y[out + v] = sum[v] / by;
  });
}

template <typename T, int V>
SPARSETRAIN_LOOP void avg_pool_plane_backward(const T* dy, Pooling p, RealOf<T>* dx) {
  each_output<V>(p, [&](int64_t out, int64_t i, int64_t j, int64_t l, int64_t) {
    const auto by = RealOf<T>(p.rows.length(i) * p.columns.length(j));
    RealOf<T> of[V];
    for (int v = 0; v < V; v++) of[v] = dy[out + v] / by;
    each_input(p, i, j, l, [&](int64_t in) {
      for (int v = 0; v < V; v++) dx[in + v] += of[v];
    });
  });
}

template <typename T>
SPARSETRAIN_LOOP void round_all(const RealOf<T>* __restrict from, T* __restrict to, int64_t n) {
  for (int64_t i = 0; i < n; i++) to[i] = from[i];
}

// f gets how many lanes are done at once, as a type.
template <typename F>
void with_lanes(int64_t lanes, const F& f) {
  if (lanes >= 16) return f(std::integral_constant<int, 16>());
  if (lanes == 8) return f(std::integral_constant<int, 8>());
  if (lanes == 4) return f(std::integral_constant<int, 4>());
  if (lanes == 2) return f(std::integral_constant<int, 2>());
  f(std::integral_constant<int, 1>());
}

// y of all planes, and place, which is null for the mean. Parallel(n, elements, f) calls
// f(begin, end) over [0, n), items of that many elements, on several threads.
template <typename T, typename Parallel>
void pool(const T* x, int64_t planes, const Pooling& p, T* y, uint8_t* place, Parallel parallel) {
  const int64_t outputs = p.to.rows * p.to.run;
  with_lanes(p.lanes, [&](auto lanes) {
    constexpr int V = decltype(lanes)::value;
    parallel(planes, p.from.size(), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i++) {
        T* const to = y + i * p.to.size();
        zero_around(to, p.to);
        if (place)
          simd<max_pool_plane<T, V>>(x + i * p.from.size(), p, to, place + i * outputs);
        else
          simd<avg_pool_plane<T, V>>(x + i * p.from.size(), p, to);
      }
    });
  });
}

// dx of all planes; sums of bf16 are those of fp32, rounded once.
template <typename T, typename Parallel>
void pool_backward(const T* dy, const uint8_t* place, int64_t planes, const Pooling& p, T* dx,
                   Parallel parallel) {
  const int64_t outputs = p.to.rows * p.to.run;
  with_lanes(p.lanes, [&](auto lanes) {
    constexpr int V = decltype(lanes)::value;
    parallel(planes, p.from.size(), [&](int64_t begin, int64_t end) {
      constexpr bool narrow = !std::is_same_v<T, RealOf<T>>;
      const int64_t size = p.from.size();
      std::vector<RealOf<T>> sums(narrow ? size : 0);
      for (int64_t i = begin; i < end; i++) {
        RealOf<T>* to = sums.data();
        if constexpr (!narrow) to = dx + i * size;
        std::fill(to, to + size, RealOf<T>(0));
        if (place)
          simd<max_pool_plane_backward<T, V>>(dy + i * p.to.size(), place + i * outputs, p, to);
        else
          simd<avg_pool_plane_backward<T, V>>(dy + i * p.to.size(), p, to);
        if constexpr (narrow) simd<round_all<T>>(to, dx + i * size, size);
      }
    });
  });
}

}  // namespace sparsetrain
