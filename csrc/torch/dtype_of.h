// The dtypes that kernels read as floats, from a tensor's.
#pragma once
#include "../score_keys.h"
#include "checks.h"

namespace sparsetrain {

// x is one of kFloating.
inline Dtype dtype_of(const Tensor& x) {
  switch (x.scalar_type()) {
    case ScalarType::Float:
      return Dtype::kFloat;
    case ScalarType::Double:
      return Dtype::kDouble;
    case ScalarType::BFloat16:
      return Dtype::kBFloat16;
    default:
      return Dtype::kHalf;
  }
}

}  // namespace sparsetrain
