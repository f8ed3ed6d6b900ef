// y = (x - mean) / sqrt(var + eps) * weight + bias, over some axes; also without the mean. Mean and
// variance are fp64 sums of numbers less one that is near their mean.
#pragma once
#include "operation.h"

namespace sparsetrain::engine {

// All operands of x's rank and shape; what is repeated has strides of 0.
struct Norm {
  Operand x, weight, bias, y;
  bool centred;
  double eps;
  bool summed[kMostAxes];
};

// A weight or bias of one number, for norms without.
inline Operand constant_like(const Operand& x, float* number) {
  Operand operand = x;
  operand.data = number;
  for (int64_t& stride : operand.stride) stride = 0;
  return operand;
}

void normalise(const Norm& norm, Threads& threads);

}  // namespace sparsetrain::engine
