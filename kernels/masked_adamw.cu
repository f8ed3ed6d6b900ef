// masked_adamw as a PyTorch op on CUDA; the kernels are in masked_adamw.cuh. Built on torch's
// stable ABI: one binary serves every torch >= 2.11.
#include "device_table.cuh"
#include "masked_adamw.cuh"

namespace sparsetrain {
namespace {

void masked_adamw_cuda(const Tensor& table, double lr, double beta1, double beta2, double eps,
                       double weight_decay, bool decoupled, bool maximize, bool keep_state,
                       MaybeTensor grad_scale, MaybeTensor found_inf) {
  if (table.size(0) == 0) return;
  const Device device(table);
  const AdamwStep options{lr, beta1, beta2, eps, weight_decay, decoupled, maximize, keep_state};
  const Scaling scaling = scaling_of(grad_scale, found_inf);
  const Parameter* rows = parameters_of(table);
  masked_adamw_kernel<<<4 * device.processors, kThreads, 0, device.stream>>>(rows, table.size(0),
                                                                             options, scaling);
  check_launch("masked_adamw");
  count_steps_kernel<<<1, kThreads, 0, device.stream>>>(rows, table.size(0), scaling);
  check_launch("masked_adamw");
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sparsetrain, CUDA, m) {
  m.impl("masked_adamw.table", TORCH_BOX(&masked_adamw_cuda));
}

}  // namespace sparsetrain
