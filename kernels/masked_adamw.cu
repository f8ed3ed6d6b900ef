// masked_adamw as a PyTorch op on CUDA; the kernels are in masked_adamw.cuh. Built on torch's
// stable ABI: one binary serves every torch >= 2.11.
#include "../csrc/torch/masked_adamw.h"
#include "masked_adamw.cuh"
#include "tables.cuh"

namespace sparsetrain {
namespace {

void masked_adamw_cuda(std::vector<Tensor> weights, std::vector<Tensor> grads,
                       std::vector<Tensor> exp_avgs, std::vector<Tensor> exp_avg_sqs,
                       std::vector<Tensor> max_exp_avg_sqs, std::vector<Tensor> steps, Masks masks,
                       double lr, double beta1, double beta2, double eps, double weight_decay,
                       bool decoupled, bool maximize, bool keep_state, MaybeTensor grad_scale,
                       MaybeTensor found_inf) {
  const std::vector<Parameter> rows =
      adamw_rows(weights, grads, {exp_avgs, exp_avg_sqs, max_exp_avg_sqs}, steps, masks);
  const Scaling scaling = scaling_of("masked_adamw", grad_scale, found_inf, weights[0]);
  const AdamwStep options{lr, beta1, beta2, eps, weight_decay, decoupled, maximize, keep_state};
  const DeviceTable table(rows, weights[0]);
  const auto count = int64_t(rows.size());
  masked_adamw_kernel<<<4 * table.device.processors, kThreads, 0, table.device.stream>>>(
      table.rows, count, options, scaling);
  check_launch("masked_adamw");
  count_steps_kernel<<<1, kThreads, 0, table.device.stream>>>(table.rows, count, scaling);
  check_launch("masked_adamw");
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sparsetrain, CUDA, m) {
  m.impl("masked_adamw", TORCH_BOX(&masked_adamw_cuda));
}

}  // namespace sparsetrain
