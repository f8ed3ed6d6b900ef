// masked_adamw as a PyTorch op on the CPU. Built on torch's stable ABI: one binary serves every
// torch >= 2.11.
#include "../masked_adamw.h"

#include "parameter_table.h"

namespace sparsetrain {
namespace {

void masked_adamw_cpu(const Tensor& table, double lr, double beta1, double beta2, double eps,
                      double weight_decay, bool decoupled, bool maximize, bool keep_state,
                      MaybeTensor grad_scale, MaybeTensor found_inf) {
  if (scalar_or(found_inf, 0) != 0) return;
  const AdamwOptions options{lr,       beta1,        beta2,
                             eps,      weight_decay, decoupled,
                             maximize, keep_state,   scalar_or(grad_scale, 1)};
  masked_adamw(parameters_of(table), table.size(0), options, on_threads);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sparsetrain, CPU, m) {
  m.impl("masked_adamw.table", TORCH_BOX(&masked_adamw_cpu));
}

}  // namespace sparsetrain
