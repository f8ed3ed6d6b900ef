// masked_sgd as a PyTorch op on CUDA; the kernels are in masked_sgd.cuh. Built on torch's stable
// ABI: one binary serves every torch >= 2.11.
#include "device_table.cuh"
#include "masked_sgd.cuh"

namespace sparsetrain {
namespace {

void masked_sgd_cuda(const Tensor& table, double lr, double momentum, double dampening,
                     double weight_decay, bool nesterov, bool maximize, bool keep_state,
                     MaybeTensor grad_scale, MaybeTensor found_inf) {
  if (table.size(0) == 0) return;
  const Device device(table);
  const SgdStep options{lr, momentum, dampening, weight_decay, nesterov, maximize, keep_state};
  masked_sgd_kernel<<<4 * device.processors, kThreads, 0, device.stream>>>(
      parameters_of(table), table.size(0), options, scaling_of(grad_scale, found_inf));
  check_launch("masked_sgd");
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sparsetrain, CUDA, m) {
  m.impl("masked_sgd.table", TORCH_BOX(&masked_sgd_cuda));
}

}  // namespace sparsetrain
