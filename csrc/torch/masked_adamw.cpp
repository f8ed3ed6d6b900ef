// masked_adamw as a PyTorch op on the CPU. Built on torch's stable ABI: one binary serves every
// torch >= 2.11.
#include "masked_adamw.h"

#include <torch/csrc/stable/library.h>

#include "../masked_adamw.h"

namespace sparsetrain {
namespace {

void masked_adamw_cpu(std::vector<Tensor> weights, std::vector<Tensor> grads,
                      std::vector<Tensor> exp_avgs, std::vector<Tensor> exp_avg_sqs,
                      std::vector<Tensor> max_exp_avg_sqs, std::vector<Tensor> steps, Masks masks,
                      double lr, double beta1, double beta2, double eps, double weight_decay,
                      bool decoupled, bool maximize, bool keep_state, MaybeTensor grad_scale,
                      MaybeTensor found_inf) {
  const std::vector<Parameter> rows =
      adamw_rows(weights, grads, {exp_avgs, exp_avg_sqs, max_exp_avg_sqs}, steps, masks);
  const float* scale = scalar_of("masked_adamw", "grad_scale", grad_scale, weights[0]);
  const float* found = scalar_of("masked_adamw", "found_inf", found_inf, weights[0]);
  if (found && *found != 0) return;
  const AdamwOptions options{
      lr, beta1, beta2, eps, weight_decay, decoupled, maximize, keep_state, scale ? *scale : 1.0};
  masked_adamw(rows.data(), int64_t(rows.size()), options, on_threads);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sparsetrain, CPU, m) {
  m.impl("masked_adamw", TORCH_BOX(&masked_adamw_cpu));
}

}  // namespace sparsetrain
