// A run of outputs of a depthwise convolution: see depthwise.cpp.
#pragma once
#include <cstdint>
#include <limits>

#include "lanes.h"

namespace sparsetrain {

// Taps of a channel: rows [first, last) of the kernel, of each columns [left, right). x[row] is a
// line of x; tap[c] is how much further column c reads.
struct DepthwiseTaps {
  const float* const* x;
  const int64_t* tap;
  const float* weight;  // [rows, columns]
  int64_t columns, first, last, left, right;
};

// count * width numbers from y on, register by register: the next one's x is x_step further, its y
// y_step. The last has `tail` numbers.
struct DepthwiseRun {
  int64_t at;  // of the first in a line of x
  float* y;
  int64_t x_step, y_step, count;
  int tail;
};

struct DepthwiseEnd {
  float bias;
  bool relu;
  float most;
};

}  // namespace sparsetrain

#define SPARSETRAIN_LOOPS "engine/depthwise_loops.h"
#include "../each_isa.h"
