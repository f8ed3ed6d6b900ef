// How the optimizer steps take their lists and GradScaler's scalars from PyTorch on CUDA.
#pragma once
#include "../csrc/torch/parameters.h"
#include "parameters.cuh"
#include "tensors.cuh"

namespace sparsetrain {
namespace {

inline Scaling scaling_of(const char* op, const MaybeTensor& grad_scale,
                          const MaybeTensor& found_inf, const Tensor& weight) {
  return {scalar_of(op, "grad_scale", grad_scale, weight),
          scalar_of(op, "found_inf", found_inf, weight)};
}

// The rows on the device, in memory that lives as long as this. They travel as kernel arguments:
// the host does not wait, and a CUDA graph keeps them.
struct DeviceTable {
  const Device device;
  const Tensor memory;
  Parameter* const rows;

  DeviceTable(const std::vector<Parameter>& table, const Tensor& weight)
      : device(weight),
        memory(torch::stable::new_empty(weight, {int64_t(table.size() * sizeof(Parameter))},
                                        ScalarType::Byte)),
        rows(static_cast<Parameter*>(memory.mutable_data_ptr())) {
    upload(table.data(), int64_t(table.size()), rows, device.stream);
  }
};

}  // namespace
}  // namespace sparsetrain
