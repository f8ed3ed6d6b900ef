// How the optimizer steps take their table and GradScaler's scalars from PyTorch on the CPU.
#pragma once
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>

#include "../parameter_table.h"

namespace sparsetrain {

using torch::stable::Tensor;
using MaybeTensor = std::optional<Tensor>;

inline const Parameter* parameters_of(const Tensor& table) {
  STD_TORCH_CHECK(table.dim() == 2 && table.size(1) * sizeof(int64_t) == sizeof(Parameter) &&
                      table.is_contiguous(),
                  "the table of parameters must be [rows, ", sizeof(Parameter) / sizeof(int64_t),
                  "] and contiguous");
  return reinterpret_cast<const Parameter*>(table.const_data_ptr<int64_t>());
}

inline double scalar_or(const MaybeTensor& scalar, double otherwise) {
  return scalar ? *scalar->const_data_ptr<float>() : otherwise;
}

inline const auto on_threads = [](int64_t n, int64_t grain, const auto& work) {
  torch::stable::parallel_for(0, n, grain, work);
};

}  // namespace sparsetrain
