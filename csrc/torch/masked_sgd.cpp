// masked_sgd as a PyTorch op on the CPU. Built on torch's stable ABI: one binary serves every
// torch >= 2.11.
#include "../masked_sgd.h"

#include "parameter_table.h"

namespace sparsetrain {
namespace {

void masked_sgd_cpu(const Tensor& table, double lr, double momentum, double dampening,
                    double weight_decay, bool nesterov, bool maximize, bool keep_state,
                    MaybeTensor grad_scale, MaybeTensor found_inf) {
  if (scalar_or(found_inf, 0) != 0) return;
  const SgdOptions options{lr,       momentum, dampening,  weight_decay,
                           nesterov, maximize, keep_state, scalar_or(grad_scale, 1)};
  masked_sgd(parameters_of(table), table.size(0), options, on_threads);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sparsetrain, CPU, m) {
  m.impl("masked_sgd.table", TORCH_BOX(&masked_sgd_cpu));
}

}  // namespace sparsetrain
