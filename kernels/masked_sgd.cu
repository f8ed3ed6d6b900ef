// masked_sgd as a PyTorch op on CUDA; the kernels are in masked_sgd.cuh. Built on torch's stable
// ABI: one binary serves every torch >= 2.11.
#include "../csrc/torch/masked_sgd.h"
#include "masked_sgd.cuh"
#include "tables.cuh"

namespace sparsetrain {
namespace {

void masked_sgd_cuda(std::vector<Tensor> weights, std::vector<Tensor> grads,
                     std::vector<Tensor> buffers, Masks masks, bool first, double lr,
                     double momentum, double dampening, double weight_decay, bool nesterov,
                     bool maximize, bool keep_state, MaybeTensor grad_scale,
                     MaybeTensor found_inf) {
  const std::vector<Parameter> rows = sgd_rows(weights, grads, buffers, masks, first, momentum);
  const Scaling scaling = scaling_of("masked_sgd", grad_scale, found_inf, weights[0]);
  const SgdStep options{lr, momentum, dampening, weight_decay, nesterov, maximize, keep_state};
  const DeviceTable table(rows, weights[0]);
  masked_sgd_kernel<<<4 * table.device.processors, kThreads, 0, table.device.stream>>>(
      table.rows, int64_t(rows.size()), options, scaling);
  check_launch("masked_sgd");
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sparsetrain, CUDA, m) {
  m.impl("masked_sgd", TORCH_BOX(&masked_sgd_cuda));
}

}  // namespace sparsetrain
