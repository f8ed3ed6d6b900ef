// gather_channels as a PyTorch op on the CPU. Built on torch's stable ABI: one binary serves every
// torch >= 2.11.
#include "gather_channels.h"

#include <torch/csrc/stable/library.h>

namespace sparsetrain {
namespace {

std::vector<Tensor> gather_channels_cpu(std::vector<Tensor> tensors, std::vector<Tensor> indices,
                                        std::vector<int64_t> rows, std::vector<int64_t> cols) {
  const Gathered all = gathered(tensors, indices, rows, cols);
  gather_all(all.gathers, [](int64_t n, const auto& work) {
    torch::stable::parallel_for(0, n, /*grain=*/1, work);
  });
  return all.out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sparsetrain, CPU, m) {
  m.impl("gather_channels", TORCH_BOX(&gather_channels_cpu));
}

}  // namespace sparsetrain
