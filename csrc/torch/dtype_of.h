// The dtypes that kernels read as floats, from a tensor's.
#pragma once
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "../score_keys.h"

namespace sparsetrain {

// who: what an error calls x, such as "channel_scores: weight".
inline Dtype dtype_of(const torch::stable::Tensor& x, const char* who) {
  using torch::headeronly::ScalarType;
  switch (x.scalar_type()) {
    case ScalarType::Float:
      return Dtype::kFloat;
    case ScalarType::Double:
      return Dtype::kDouble;
    case ScalarType::BFloat16:
      return Dtype::kBFloat16;
    case ScalarType::Half:
      return Dtype::kHalf;
    default:
      STD_TORCH_CHECK(false, who, " must be float32, float64, bfloat16 or float16");
  }
}

}  // namespace sparsetrain
