// The softmax of columns that lie side by side, and of runs.
#pragma once
#include "functions.h"

namespace sparsetrain {

// x[i * x_step + l] for i < n is column l; y has its softmax, and may be x.
struct SoftmaxLanes {
  const float* x;
  float* y;
  int64_t x_step, y_step, n, lanes;
};

}  // namespace sparsetrain

#define SPARSETRAIN_LOOPS "engine/softmax_loops.h"
#include "../each_isa.h"
