// masked_adamw on the GPU. What it computes: sparsetrain/ops/masked_adamw.py.
//
// One launch for all parameters (parameters.cuh), and a small one after it that counts the steps
// up, since all blocks read them.
#pragma once
#include "parameters.cuh"

namespace sparsetrain {
namespace {

struct AdamwStep {
  double lr, beta1, beta2, eps, weight_decay;
  bool decoupled, maximize, keep_state;
};

// What a step multiplies with: in fp64, once for a block's share of a row.
struct AdamwBias {
  double rate, root;
};

template <typename Real>
struct AdamwElement {
  Real sign, coupled, shrink, beta1, beta2, rest1, rest2, rate, root, eps;
  bool amsgrad, keep_state;

  __device__ AdamwElement(const AdamwStep& o, const AdamwBias& bias, const Parameter& p)
      : sign(o.maximize ? -1 : 1),
        coupled(o.decoupled ? 0 : o.weight_decay),
        shrink(o.decoupled ? 1 - o.lr * o.weight_decay : 1),
        beta1(o.beta1),
        beta2(o.beta2),
        rest1(1 - o.beta1),
        rest2(1 - o.beta2),
        rate(bias.rate),
        root(bias.root),
        eps(o.eps),
        amsgrad(p.state[2] != nullptr),
        keep_state(o.keep_state) {}

  __device__ __forceinline__ void operator()(Real& w, Real g, Real* state, bool live) const {
    Real d = sign * g;
    if (coupled != 0) d += coupled * w;
    const Real mean = beta1 * state[0] + rest1 * d;
    const Real square = beta2 * state[1] + rest2 * d * d;
    const Real under = amsgrad && state[2] >= square ? state[2] : square;
    const Real stepped = shrink * w - rate * mean / (sqrt(under) / root + eps);
    const bool kept = live || keep_state;
    state[0] = kept ? mean : Real(0);
    state[1] = kept ? square : Real(0);
    state[2] = kept ? under : Real(0);
    w = live ? stepped : Real(0);
  }
};

template <typename T>
__device__ __forceinline__ void adamw_share(const Parameter& p, int64_t begin, int64_t end,
                                            const AdamwStep& o, const AdamwBias& bias,
                                            const Scaling& scaling) {
  step_share<T, 3>(p, begin, end, scaling, AdamwElement<typename Wide<T>::Real>(o, bias, p));
}

__device__ double power(double x, int64_t n) {
  double y = 1;
  for (; n > 0; n >>= 1, x *= x)
    if (n & 1) y *= x;
  return y;
}

__device__ AdamwBias bias_of(const AdamwStep& o, int64_t step) {
  return {o.lr / (1 - power(o.beta1, step)), sqrt(1 - power(o.beta2, step))};
}

__global__ void __launch_bounds__(kThreads, 2)
    masked_adamw_kernel(const Parameter* table, int64_t rows, AdamwStep o, Scaling scaling) {
  __shared__ AdamwBias bias;
  if (scaling.found_inf && *scaling.found_inf != 0) return;
  for_each_share(table, rows, [&](const Parameter& p, int64_t begin, int64_t end) {
    __syncthreads();
    if (threadIdx.x == 0) bias = bias_of(o, int64_t(*p.step) + 1);
    __syncthreads();
    switch (p.dtype) {
      case StepDtype::kFloat:
        return adamw_share<float>(p, begin, end, o, bias, scaling);
      case StepDtype::kDouble:
        return adamw_share<double>(p, begin, end, o, bias, scaling);
      case StepDtype::kBFloat16:
        return adamw_share<Bf16>(p, begin, end, o, bias, scaling);
      case StepDtype::kHalf:
        return adamw_share<Fp16>(p, begin, end, o, bias, scaling);
    }
  });
}

__global__ void __launch_bounds__(kThreads)
    count_steps_kernel(const Parameter* table, int64_t rows, Scaling scaling) {
  if (scaling.found_inf && *scaling.found_inf != 0) return;
  for (int64_t row = threadIdx.x; row < rows; row += kThreads) *table[row].step += 1;
}

}  // namespace
}  // namespace sparsetrain
