// masked_sgd on the GPU. What it computes: sparsetrain/ops/masked_sgd.py.
//
// One launch for all parameters (parameters.cuh).
#pragma once
#include "parameters.cuh"

namespace sparsetrain {
namespace {

struct SgdStep {
  double lr, momentum, dampening, weight_decay;
  bool nesterov, maximize, keep_state;
};

// The same, in the precision of the loop, for one row.
template <typename Real>
struct SgdElement {
  Real lr, momentum, undamped, weight_decay, sign;
  bool buffered, first, nesterov, keep_state;

  __device__ SgdElement(const SgdStep& o, const Parameter& p)
      : lr(o.lr),
        momentum(o.momentum),
        undamped(1 - o.dampening),
        weight_decay(o.weight_decay),
        sign(o.maximize ? -1 : 1),
        buffered(p.state[0] != nullptr),
        first(p.first != 0),
        nesterov(o.nesterov),
        keep_state(o.keep_state) {}

  __device__ __forceinline__ void operator()(Real& w, Real g, Real* state, bool live) const {
    Real d = sign * g;
    if (weight_decay != 0) d += weight_decay * w;
    if (buffered) {
      const Real v = first ? d : momentum * state[0] + undamped * d;
      state[0] = live || keep_state ? v : Real(0);
      d = nesterov ? d + momentum * v : v;
    }
    w = live ? w - lr * d : Real(0);
  }
};

template <typename T>
__device__ __forceinline__ void sgd_share(const Parameter& p, int64_t begin, int64_t end,
                                          const SgdStep& o, const Scaling& scaling) {
  step_share<T, 1>(p, begin, end, scaling, SgdElement<typename Wide<T>::Real>(o, p));
}

__global__ void __launch_bounds__(kThreads, 2)
    masked_sgd_kernel(const Parameter* table, int64_t rows, SgdStep o, Scaling scaling) {
  if (scaling.found_inf && *scaling.found_inf != 0) return;
  for_each_share(table, rows, [&](const Parameter& p, int64_t begin, int64_t end) {
    switch (p.dtype) {
      case StepDtype::kFloat:
        return sgd_share<float>(p, begin, end, o, scaling);
      case StepDtype::kDouble:
        return sgd_share<double>(p, begin, end, o, scaling);
      case StepDtype::kBFloat16:
        return sgd_share<Bf16>(p, begin, end, o, scaling);
      case StepDtype::kHalf:
        return sgd_share<Fp16>(p, begin, end, o, scaling);
    }
  });
}

}  // namespace
}  // namespace sparsetrain
