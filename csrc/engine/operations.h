// All operations of the engine, by number; a planner looks numbers up by their names.
#pragma once
#include "operation.h"

namespace sparsetrain::engine {

int64_t operation_count();
const Operation& operation(int64_t i);

}  // namespace sparsetrain::engine
