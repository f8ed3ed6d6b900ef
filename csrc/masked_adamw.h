// masked_adamw on the CPU. What it computes: sparsetrain/ops/masked_adamw.py.
//
// One pass over weight, gradient, moments and mask: memory is all that it costs.
//
// Raw pointers only: the same loop serves the PyTorch op (torch/masked_adamw.cpp) and anything
// without PyTorch.
#pragma once
#include <cmath>
#include <vector>

#include "parameter_table.h"

namespace sparsetrain {

struct AdamwOptions {
  double lr, beta1, beta2, eps, weight_decay;
  bool decoupled, maximize, keep_state;
  double grad_scale;  // 1: gradients are not scaled
};

// What the loop multiplies with in the given step, in its precision.
template <typename Real>
struct AdamwFactors {
  AdamwFactors(const AdamwOptions& o, double step)
      : sign(o.maximize ? -1 : 1),
        coupled(o.decoupled ? 0 : o.weight_decay),
        shrink(o.decoupled ? 1 - o.lr * o.weight_decay : 1),
        beta1(o.beta1),
        beta2(o.beta2),
        rest1(1 - o.beta1),
        rest2(1 - o.beta2),
        rate(o.lr / (1 - std::pow(o.beta1, step))),
        root(std::sqrt(1 - std::pow(o.beta2, step))),
        eps(o.eps) {}
  Real sign, coupled, shrink, beta1, beta2, rest1, rest2, rate, root, eps;
};

// `most` is the largest v so far, null without amsgrad.
template <typename Real, MaskMode mode, bool amsgrad>
SPARSETRAIN_LOOP void adamw_piece(Real* __restrict w, const Real* __restrict g, Real* __restrict m,
                                  Real* __restrict v, Real* __restrict most,
                                  const uint8_t* __restrict mask, int64_t n, AdamwFactors<Real> f) {
  constexpr bool zero = mode == MaskMode::kZeroState;
  for (int64_t i = 0; i < n; i++) {
    Real d = f.sign * g[i];
    if (f.coupled != 0) d += f.coupled * w[i];
    const Real mean = f.beta1 * m[i] + f.rest1 * d;
    const Real square = f.beta2 * v[i] + f.rest2 * d * d;
    m[i] = zero ? masked(mean, mask[i]) : mean;
    v[i] = zero ? masked(square, mask[i]) : square;
    Real under = square;
    if (amsgrad) {
      under = most[i] >= square ? most[i] : square;
      most[i] = zero ? masked(under, mask[i]) : under;
    }
    const Real stepped = f.shrink * w[i] - f.rate * mean / (std::sqrt(under) / f.root + f.eps);
    w[i] = mode == MaskMode::kNone ? stepped : masked(stepped, mask[i]);
  }
}

template <typename Real, MaskMode mode, bool amsgrad>
SPARSETRAIN_LOOP void adamw_loop(Real* w, const Real* g, Real* m, Real* v, Real* most,
                                 const uint8_t* mask, int64_t n, AdamwFactors<Real> f) {
  for (int64_t i = 0; i < n; i += kPiece) {
    fetch_ahead(w + i);
    fetch_ahead(g + i);
    fetch_ahead(m + i);
    fetch_ahead(v + i);
    if (amsgrad) fetch_ahead(most + i);
    if (mode != MaskMode::kNone) fetch_ahead(mask + i);
    Real* const largest = amsgrad ? most + i : most;
    const uint8_t* const kept = mode == MaskMode::kNone ? mask : mask + i;
    if (n - i >= kPiece)  // a constant unrolls
      adamw_piece<Real, mode, amsgrad>(w + i, g + i, m + i, v + i, largest, kept, kPiece, f);
    else
      adamw_piece<Real, mode, amsgrad>(w + i, g + i, m + i, v + i, largest, kept, n - i, f);
  }
}

template <typename Real, MaskMode mode>
void adamw_run(Real* w, const Real* g, Real* m, Real* v, Real* most, const uint8_t* mask, int64_t n,
               const AdamwFactors<Real>& f) {
  if (most)
    simd<adamw_loop<Real, mode, true>>(w, g, m, v, most, mask, n, f);
  else
    simd<adamw_loop<Real, mode, false>>(w, g, m, v, most, mask, n, f);
}

template <typename Format>
void adamw_block(const Parameter& p, int64_t begin, int64_t n, const AdamwOptions& o,
                 const AdamwFactors<typename Format::Real>& f) {
  using Real = typename Format::Real;
  Floats<Format> w(p.weight, begin, n), g(p.grad, begin, n);
  Floats<Format> m(p.state[0], begin, n), v(p.state[1], begin, n), most(p.state[2], begin, n);
  if (o.grad_scale != 1) {
    simd<divide_by<Real>>(g.data, Real(o.grad_scale), n);
    g.store();
  }
  const uint8_t* mask = p.mask ? p.mask + begin : nullptr;
  if (!mask)
    adamw_run<Real, MaskMode::kNone>(w.data, g.data, m.data, v.data, most.data, mask, n, f);
  else if (o.keep_state)
    adamw_run<Real, MaskMode::kKeepState>(w.data, g.data, m.data, v.data, most.data, mask, n, f);
  else
    adamw_run<Real, MaskMode::kZeroState>(w.data, g.data, m.data, v.data, most.data, mask, n, f);
  w.store();
  m.store();
  v.store();
  most.store();
}

// Counts the steps up too.
template <typename Parallel>
void masked_adamw(const Parameter* table, int64_t rows, const AdamwOptions& options,
                  Parallel parallel) {
  std::vector<AdamwFactors<float>> singles;
  std::vector<AdamwFactors<double>> doubles;
  for (int64_t i = 0; i < rows; i++) {
    const double step = *table[i].step += 1;
    singles.emplace_back(options, step);
    doubles.emplace_back(options, step);
  }
  for_each_block(table, rows, parallel, [&](auto format, int64_t row, int64_t begin, int64_t n) {
    using Format = decltype(format);
    if constexpr (std::is_same_v<typename Format::Real, double>)
      adamw_block<Format>(table[row], begin, n, options, doubles[row]);
    else
      adamw_block<Format>(table[row], begin, n, options, singles[row]);
  });
}

}  // namespace sparsetrain
