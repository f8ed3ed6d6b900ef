// The shape of a sparse product from its blocked tensors.
#pragma once
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <vector>

#include "../spmm.h"

namespace sparsetrain {

// Of a blocked tensor: lines and columns of its halo.
struct Halo {
  int64_t rows, columns;
};

// x: [blocks, C, rows, columns, lanes]; y alike, with a halo. Where an image has one line, blocks
// are the lines, so that a tile may hold several.
inline SpmmShape spmm_shape(const torch::stable::Tensor& x, const torch::stable::Tensor& y,
                            Halo halo, int64_t v, int64_t segments) {
  const int64_t lanes = y.size(4), x_image = x.size(1) * x.size(2) * x.size(3) * lanes;
  const int64_t y_channel = y.size(2) * y.size(3) * lanes, channels = y.size(1);
  SpmmShape s{y.size(0),
              y.size(2) - 2 * halo.rows,
              (y.size(3) - 2 * halo.columns) * lanes,
              x_image,
              x.size(3) * lanes,
              channels * y_channel,
              y.size(3) * lanes,
              y_channel,
              channels,
              (channels + v - 1) / v,
              segments};
  if (s.lines == 1) {
    s.lines = s.blocks, s.blocks = 1;
    s.x_line = s.x_block, s.y_line = s.y_block;
  }
  return s;
}

// Of the first number inside the halo.
inline int64_t inside(const torch::stable::Tensor& y, Halo halo) {
  return (halo.rows * y.size(3) + halo.columns) * y.size(4);
}

// f gets a number of x's dtype, fp32 or bf16.
template <typename F>
void with_storage(const torch::stable::Tensor& x, const F& f) {
  if (x.scalar_type() == torch::headeronly::ScalarType::BFloat16)
    f(BFloat16());
  else
    f(float());
}

inline int spmm_threads() { return std::max<int>(1, int(torch::stable::get_num_threads())); }

}  // namespace sparsetrain
