// masked_sgd as a PyTorch op on the CPU. Built on torch's stable ABI: one binary serves every
// torch >= 2.11.
#include "masked_sgd.h"

#include <torch/csrc/stable/library.h>

#include "../masked_sgd.h"

namespace sparsetrain {
namespace {

void masked_sgd_cpu(std::vector<Tensor> weights, std::vector<Tensor> grads,
                    std::vector<Tensor> buffers, Masks masks, bool first, double lr,
                    double momentum, double dampening, double weight_decay, bool nesterov,
                    bool maximize, bool keep_state, MaybeTensor grad_scale, MaybeTensor found_inf) {
  const std::vector<Parameter> rows = sgd_rows(weights, grads, buffers, masks, first, momentum);
  const float* scale = scalar_of("masked_sgd", "grad_scale", grad_scale, weights[0]);
  const float* found = scalar_of("masked_sgd", "found_inf", found_inf, weights[0]);
  if (found && *found != 0) return;
  const SgdOptions options{lr,       momentum, dampening,  weight_decay,
                           nesterov, maximize, keep_state, scale ? *scale : 1.0};
  masked_sgd(rows.data(), int64_t(rows.size()), options, on_threads);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sparsetrain, CPU, m) { m.impl("masked_sgd", TORCH_BOX(&masked_sgd_cpu)); }

}  // namespace sparsetrain
