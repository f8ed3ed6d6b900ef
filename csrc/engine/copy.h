// y = x, between any strides; also for operations that move parts of tensors.
#pragma once
#include "operation.h"

namespace sparsetrain::engine {

// Of one shape and dtype; they do not overlap.
void copy_numbers(const Operand& x, const Operand& y, Threads& threads);

// The part [from, from + size) of an axis.
inline Operand part_of(Operand operand, int axis, int64_t from, int64_t size) {
  const int64_t bytes = from * operand.stride[axis] * bytes_of(operand.dtype);
  if (size > 0) operand.data = static_cast<char*>(operand.data) + bytes;
  operand.shape[axis] = size;
  return operand;
}

}  // namespace sparsetrain::engine
