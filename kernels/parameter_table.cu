// The table of an optimizer step, copied to the GPU (sparsetrain/ops/parameter_table.py). Built on
// torch's stable ABI: one binary serves every torch >= 2.11.
#include "device_table.cuh"

namespace sparsetrain {
namespace {

// The rows travel as kernel arguments: the host does not wait, and a CUDA graph keeps them.
Tensor table_on_cuda(const Tensor& table, const Tensor& like) {
  const Parameter* rows = parameters_of(table);
  const Device device(like);
  Tensor copy = torch::stable::new_empty(like, table.sizes(), ScalarType::Long);
  upload(rows, table.size(0), reinterpret_cast<Parameter*>(copy.mutable_data_ptr<int64_t>()),
         device.stream);
  return copy;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sparsetrain, CUDA, m) { m.impl("table_on", TORCH_BOX(&table_on_cuda)); }

}  // namespace sparsetrain
