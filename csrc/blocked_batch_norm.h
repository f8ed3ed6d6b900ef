// blocked_batch_norm on the CPU. What it computes: sparsetrain/ops/blocked_batch_norm.py.
//
// A thread does one channel after another, first its sums and then its numbers, so that the second
// pass finds in a cache what the first has read: to memory that is x read and y written, and
// backward x and dy read and dx written. The ReLU's mask is computed anew from x, by the same
// operations, and not read. Sums are fp64, in sixteen parts; they depend neither on the threads nor
// on the instruction set. bf16 is computed in fp32, as are its statistics.
//
// Raw pointers only: the same loop serves the PyTorch op (torch/blocked_batch_norm.cpp) and
// anything without PyTorch.
#pragma once
#include <cmath>
#include <cstdint>

#include "blocked.h"
#include "floats.h"
#include "simd.h"

namespace sparsetrain {

constexpr int kParts = 16;
constexpr int64_t kAtOnce = 256;  // products that are made before they are added: in L1

struct Sums {
  double first[kParts] = {}, second[kParts] = {};
  static double folded(const double* parts) {
    double sum = 0;
    for (int k = 0; k < kParts; k++) sum += parts[k];
    return sum;
  }
};

// The sums of a and of a b; products of fp32 are exact in fp64. Loops are apart, each over local
// memory, so that a compiler vectorises them.
template <typename T>
SPARSETRAIN_LOOP void add_sums(const T* a, const T* b, int64_t n, Sums* sums) {
  const int64_t whole = n - n % kParts;
  double part[kParts];
  for (int k = 0; k < kParts; k++) part[k] = sums->first[k];
  for (int64_t i = 0; i < whole; i += kParts)
    for (int k = 0; k < kParts; k++) part[k] += double(a[i + k]);
  for (int k = 0; k < kParts; k++) sums->first[k] = part[k];
  for (int k = 0; k < kParts; k++) part[k] = sums->second[k];
  for (int64_t i = 0; i < whole; i += kParts)
    for (int k = 0; k < kParts; k++) part[k] += double(a[i + k]) * double(b[i + k]);
  for (int k = 0; k < kParts; k++) sums->second[k] = part[k];
  for (int64_t i = whole; i < n; i++) {
    sums->first[i - whole] += double(a[i]);
    sums->second[i - whole] += double(a[i]) * double(b[i]);
  }
}

// What a channel's numbers go through: y = (x - mean) scale + bias, then perhaps the ReLU.
template <typename T>
struct Norm {
  T mean, scale, bias;
};

// Of all channels, [channels] each; weight and bias may be null: 1 and 0.
template <typename T>
struct Norms {
  const T *weight, *bias, *mean, *var;
  double eps;
  double invstd(int64_t c) const { return 1 / std::sqrt(double(var[c]) + eps); }
  Norm<T> of(int64_t c) const {
    return {mean[c], T((weight ? double(weight[c]) : 1.0) * invstd(c)), bias ? bias[c] : T(0)};
  }
};

// dy where the ReLU let x through, else 0; NaN goes through, as in torch.relu.
template <typename T, bool relu>
SPARSETRAIN_LOOP T passed(T dy, T x, const Norm<T>& n) {
  const T y = (x - n.mean) * n.scale + n.bias;
  return relu && y <= T(0) ? T(0) : dy;
}

// The sums of x and of x squared over a plane.
template <typename T>
SPARSETRAIN_LOOP void add_moments(const T* plane, Plane p, Sums* sums) {
  for (int64_t row = 0; row < p.rows; row++)
    for (int64_t at = 0; at < p.run; at += kAtOnce) {
      const T* x = plane + p.at(row) + at;
      add_sums(x, x, std::min(kAtOnce, p.run - at), sums);
    }
}

// The sums of g and of g (x - mean) over a plane, g being dy where the ReLU let x through.
template <typename T, bool relu>
SPARSETRAIN_LOOP void add_products(const T* x_plane, Plane p, const T* dy_plane, Plane q,
                                   Norm<RealOf<T>> n, Sums* sums) {
  using Real = RealOf<T>;
  alignas(64) Real g[kAtOnce], centred[kAtOnce];
  for (int64_t row = 0; row < p.rows; row++)
    for (int64_t at = 0; at < p.run; at += kAtOnce) {
      const T *x = x_plane + p.at(row) + at, *dy = dy_plane + q.at(row) + at;
      const int64_t count = std::min(kAtOnce, p.run - at);
      for (int64_t i = 0; i < count; i++) {
        g[i] = passed<Real, relu>(dy[i], x[i], n);
        centred[i] = x[i] - n.mean;
      }
      add_sums(g, centred, count, sums);
    }
}

template <typename T, bool relu>
SPARSETRAIN_LOOP void norm_plane(const T* x_plane, Plane p, T* y_plane, Plane q,
                                 Norm<RealOf<T>> n) {
  using Real = RealOf<T>;
  for (int64_t row = 0; row < p.rows; row++) {
    const T* __restrict x = x_plane + p.at(row);
    T* __restrict y = y_plane + q.at(row);
    for (int64_t i = 0; i < p.run; i++) {
      const Real z = (x[i] - n.mean) * n.scale + n.bias;
      y[i] = relu && z <= Real(0) ? Real(0) : z;
    }
  }
}

// dx = (g - of_mean - (x - mean) of_var) scale
template <typename T, bool relu>
SPARSETRAIN_LOOP void norm_plane_backward(const T* x_plane, T* dx_plane, Plane p, const T* dy_plane,
                                          Plane q, Norm<RealOf<T>> n, RealOf<T> of_mean,
                                          RealOf<T> of_var) {
  for (int64_t row = 0; row < p.rows; row++) {
    const T* __restrict x = x_plane + p.at(row), * __restrict dy = dy_plane + q.at(row);
    T* __restrict dx = dx_plane + p.at(row);
    for (int64_t i = 0; i < p.run; i++) {
      const RealOf<T> g = passed<RealOf<T>, relu>(dy[i], x[i], n);
      dx[i] = (g - of_mean - (x[i] - n.mean) * of_var) * n.scale;
    }
  }
}

// Two views of the same pixels, joined where both can be.
struct Pair {
  Plane a, b;
};

inline Pair joined(const Plane& a, const Plane& b) {
  return a.side || b.side ? Pair{a, b} : Pair{joined(a), joined(b)};
}

// mean and var of each channel of x. Parallel(n, elements, f) calls f(begin, end) over [0, n),
// items of that many elements, on several threads.
template <typename T>
void channel_moments(const T* x, const Blocking& s, int64_t c, RealOf<T>* mean, RealOf<T>* var) {
  const Plane p = joined(s.plane());
  Sums sums;
  for (int64_t b = 0; b < s.blocks; b++)
    simd<add_moments<T>>(x + (b * s.channels + c) * p.size(), p, &sums);
  const double n = double(s.blocks) * s.height * s.width * s.lanes;
  const double m = Sums::folded(sums.first) / n;
  mean[c] = RealOf<T>(m);
  var[c] = RealOf<T>(std::max(0.0, Sums::folded(sums.second) / n - m * m));
}

// y, with y's halo, from x; moments: mean and var are those of x, and are written first.
template <typename T, bool relu, typename Parallel>
void batch_norm(const T* x, const Blocking& s, const Norms<RealOf<T>>& norms, RealOf<T>* mean,
                RealOf<T>* var, bool moments, T* y, const Blocking& to, Parallel parallel) {
  const Pair p = joined(s.plane(), to.plane());
  parallel(s.channels, s.blocks * p.a.size(), [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; c++) {
      if (moments) channel_moments(x, s, c, mean, var);
      for (int64_t b = 0; b < s.blocks; b++) {
        const int64_t i = b * s.channels + c;
        zero_around(y + i * p.b.size(), p.b);
        simd<norm_plane<T, relu>>(x + i * p.a.size(), p.a, y + i * p.b.size(), p.b, norms.of(c));
      }
    }
  });
}

// dx, with x's halo, dweight and dbias, from dy; moments: as they were forward.
template <typename T, bool relu, typename Parallel>
void batch_norm_backward(const T* dy, const Blocking& from, const T* x, const Blocking& s,
                         const Norms<RealOf<T>>& norms, bool moments, T* dx, RealOf<T>* dweight,
                         RealOf<T>* dbias, Parallel parallel) {
  using Real = RealOf<T>;
  const Pair p = joined(s.plane(), from.plane());
  const double n = double(s.blocks) * s.height * s.width * s.lanes;
  parallel(s.channels, s.blocks * p.a.size(), [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; c++) {
      const Norm<Real> norm = norms.of(c);
      Sums sums;
      for (int64_t b = 0; b < s.blocks; b++) {
        const int64_t i = b * s.channels + c;
        simd<add_products<T, relu>>(x + i * p.a.size(), p.a, dy + i * p.b.size(), p.b, norm, &sums);
      }
      const double invstd = norms.invstd(c), total = Sums::folded(sums.first);
      const double product = Sums::folded(sums.second);
      dweight[c] = Real(product * invstd);
      dbias[c] = Real(total);
      const Real of_mean = Real(moments ? total / n : 0);
      const Real of_var = Real(moments ? product * invstd * invstd / n : 0);
      for (int64_t b = 0; b < s.blocks; b++) {
        const int64_t i = b * s.channels + c;
        zero_around(dx + i * p.a.size(), p.a);
        simd<norm_plane_backward<T, relu>>(x + i * p.a.size(), dx + i * p.a.size(), p.a,
                                           dy + i * p.b.size(), p.b, norm, of_mean, of_var);
      }
    }
  });
}

}  // namespace sparsetrain
