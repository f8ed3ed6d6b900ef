// Every number of y becomes one value; also for operations that fill parts of tensors.
#pragma once
#include "operation.h"

namespace sparsetrain::engine {

// The value is cast to y's dtype.
void fill_numbers(const Operand& y, double value, Threads& threads);

}  // namespace sparsetrain::engine
