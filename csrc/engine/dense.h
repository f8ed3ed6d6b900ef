// A dense convolution or linear layer, with what follows it.
//
//   y[o, p] = min(most, relu(sum over d of weight[o, d] x[p + offset[d]] + bias[o] + residual[o,
//   p]))
//
// A tile is R outputs times up to 3 registers of y, held in registers while a part of the depth
// passes: each number of the weight costs one load, each of x serves R outputs. What a tile reads
// of x is copied first into the order in which it passes, once for many outputs, so that it stays
// in L1 wherever it lay; weights, packed once, stream from L2 and are read again for each tile.
// Lines of y are one run for tiles, however short they are. The order of additions is that of the
// depth, after bias and residual, whatever the tile, machine width or threads.
#pragma once
#include <cstdint>

#include "threads.h"

namespace sparsetrain {

// Strides in numbers; outputs are those of one of `groups`, as the depth is.
struct DenseJob {
  int64_t groups, outputs, depth;
  int64_t lines, run;  // run: numbers of a line of y
  int64_t x_group, x_line;
  int64_t y_channel, y_line;
  const int32_t* offset;  // [depth]
  const float* weight;    // as dense_pack makes it
  const float* x;
  float* y;
  const float* bias;      // [groups * outputs] or null
  const float* residual;  // strides of y, or null
  bool relu;
  float most;  // of a ReLU
};

// Numbers of a packed weight.
int64_t dense_packed_size(int64_t groups, int64_t outputs, int64_t depth);

// The weight [groups, outputs, depth] as tiles read it: [groups, parts of the depth, tiles, depth,
// R].
void dense_pack(const float* weight, int64_t groups, int64_t outputs, int64_t depth, float* to);

// By the calling thread alone where `threads` is null.
void dense(const DenseJob& job, engine::Threads* threads);

}  // namespace sparsetrain
