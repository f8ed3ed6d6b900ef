// How the optimizer steps take their table and GradScaler's scalars from PyTorch on CUDA.
#pragma once
#include "../csrc/torch/parameter_table.h"
#include "parameters.cuh"
#include "tensors.cuh"

namespace sparsetrain {
namespace {

inline Scaling scaling_of(const MaybeTensor& grad_scale, const MaybeTensor& found_inf) {
  return {grad_scale ? grad_scale->const_data_ptr<float>() : nullptr,
          found_inf ? found_inf->const_data_ptr<float>() : nullptr};
}

}  // namespace
}  // namespace sparsetrain
