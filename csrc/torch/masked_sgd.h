// What masked_sgd asks of its tensors, on the CPU and on CUDA.
#pragma once
#include "parameters.h"

namespace sparsetrain {

inline std::vector<Parameter> sgd_rows(const std::vector<Tensor>& weights,
                                       const std::vector<Tensor>& grads,
                                       const std::vector<Tensor>& buffers, const Masks& masks,
                                       bool first, double momentum) {
  STD_TORCH_CHECK(!weights.empty(), "masked_sgd: needs a weight, got none");
  STD_TORCH_CHECK(momentum == 0 || !buffers.empty(), "masked_sgd: momentum ", momentum,
                  " needs buffers, got none");
  return StepLists{"masked_sgd", weights, grads, masks, {{"buffers", buffers}}, nullptr, first}
      .rows();
}

}  // namespace sparsetrain
