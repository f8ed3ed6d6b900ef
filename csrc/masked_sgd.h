// masked_sgd on the CPU. What it computes: sparsetrain/ops/masked_sgd.py.
//
// One pass over weight, gradient, momentum and mask: memory is all that it costs.
//
// Raw pointers only: the same loop serves the PyTorch op (torch/masked_sgd.cpp) and anything
// without PyTorch.
#pragma once
#include "parameter_table.h"

namespace sparsetrain {

struct SgdOptions {
  double lr, momentum, dampening, weight_decay;
  bool nesterov, maximize, keep_state;
  double grad_scale;  // 1: gradients are not scaled
};

enum class Momentum { kNone, kFirst, kOn };

// The same, in the precision of the loop.
template <typename Real>
struct SgdFactors {
  explicit SgdFactors(const SgdOptions& o)
      : lr(o.lr),
        momentum(o.momentum),
        undamped(1 - o.dampening),
        weight_decay(o.weight_decay),
        sign(o.maximize ? -1 : 1),
        nesterov(o.nesterov) {}
  Real lr, momentum, undamped, weight_decay, sign;
  bool nesterov;
};

template <typename Real, MaskMode mode, Momentum kind>
SPARSETRAIN_LOOP void sgd_piece(Real* __restrict w, const Real* __restrict g, Real* __restrict m,
                                const uint8_t* __restrict mask, int64_t n, SgdFactors<Real> f) {
  for (int64_t i = 0; i < n; i++) {
    Real d = f.sign * g[i];
    if (f.weight_decay != 0) d += f.weight_decay * w[i];
    if (kind != Momentum::kNone) {
      const Real v = kind == Momentum::kFirst ? d : f.momentum * m[i] + f.undamped * d;
      m[i] = mode == MaskMode::kZeroState ? masked(v, mask[i]) : v;
      d = f.nesterov ? d + f.momentum * v : v;
    }
    const Real stepped = w[i] - f.lr * d;
    w[i] = mode == MaskMode::kNone ? stepped : masked(stepped, mask[i]);
  }
}

template <typename Real, MaskMode mode, Momentum kind>
SPARSETRAIN_LOOP void sgd_loop(Real* w, const Real* g, Real* m, const uint8_t* mask, int64_t n,
                               SgdFactors<Real> f) {
  for (int64_t i = 0; i < n; i += kPiece) {
    fetch_ahead(w + i);
    fetch_ahead(g + i);
    if (kind != Momentum::kNone) fetch_ahead(m + i);
    if (mode != MaskMode::kNone) fetch_ahead(mask + i);
    Real* const state = kind == Momentum::kNone ? m : m + i;
    const uint8_t* const kept = mode == MaskMode::kNone ? mask : mask + i;
    if (n - i >= kPiece)  // a constant unrolls
      sgd_piece<Real, mode, kind>(w + i, g + i, state, kept, kPiece, f);
    else
      sgd_piece<Real, mode, kind>(w + i, g + i, state, kept, n - i, f);
  }
}

template <typename Real, MaskMode mode>
void sgd_run(Real* w, const Real* g, Real* m, const uint8_t* mask, int64_t n, bool first,
             const SgdOptions& o) {
  const SgdFactors<Real> f(o);
  if (!m)
    simd<sgd_loop<Real, mode, Momentum::kNone>>(w, g, m, mask, n, f);
  else if (first)
    simd<sgd_loop<Real, mode, Momentum::kFirst>>(w, g, m, mask, n, f);
  else
    simd<sgd_loop<Real, mode, Momentum::kOn>>(w, g, m, mask, n, f);
}

template <typename Format>
void sgd_block(const Parameter& p, int64_t begin, int64_t n, const SgdOptions& o) {
  using Real = typename Format::Real;
  Floats<Format> w(p.weight, begin, n), g(p.grad, begin, n), m(p.state[0], begin, n);
  if (o.grad_scale != 1) {
    simd<divide_by<Real>>(g.data, Real(o.grad_scale), n);
    g.store();
  }
  const uint8_t* mask = p.mask ? p.mask + begin : nullptr;
  if (!mask)
    sgd_run<Real, MaskMode::kNone>(w.data, g.data, m.data, mask, n, p.first, o);
  else if (o.keep_state)
    sgd_run<Real, MaskMode::kKeepState>(w.data, g.data, m.data, mask, n, p.first, o);
  else
    sgd_run<Real, MaskMode::kZeroState>(w.data, g.data, m.data, mask, n, p.first, o);
  w.store();
  m.store();
}

template <typename Parallel>
void masked_sgd(const Parameter* table, int64_t rows, const SgdOptions& options,
                Parallel parallel) {
  for_each_block(table, rows, parallel, [&](auto format, int64_t row, int64_t begin, int64_t n) {
    sgd_block<decltype(format)>(table[row], begin, n, options);
  });
}

}  // namespace sparsetrain
