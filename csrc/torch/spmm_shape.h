// The shape of a sparse product from its blocked tensors.
#pragma once
#include "../spmm.h"
#include "checks.h"

namespace sparsetrain {

constexpr std::initializer_list<ScalarType> kStored = {ScalarType::Float, ScalarType::BFloat16};

// Of a blocked tensor: lines and columns of its halo.
struct Halo {
  int64_t rows, columns;
};

// x: [blocks, C, rows, columns, lanes]; y alike, with a halo. Where an image has one line, blocks
// are the lines, so that a tile may hold several.
inline SpmmShape spmm_shape(const Tensor& x, const Tensor& y, Halo halo, int64_t v,
                            int64_t segments) {
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
inline int64_t inside(const Tensor& y, Halo halo) {
  return (halo.rows * y.size(3) + halo.columns) * y.size(4);
}

// f gets a number of x's dtype, fp32 or bf16.
template <typename F>
void with_storage(const Tensor& x, const F& f) {
  if (x.scalar_type() == ScalarType::BFloat16)
    f(BFloat16());
  else
    f(float());
}

inline Halo halo_of(const char* op, const Sizes& halo) {
  STD_TORCH_CHECK(halo.size() == 2 && std::min(halo[0], halo[1]) >= 0 &&
                      std::max(halo[0], halo[1]) < (int64_t(1) << 31),
                  op, ": halo must be two numbers from 0 up, rows and columns, got ",
                  Printed{halo});
  return {halo[0], halo[1]};
}

inline int spmm_threads() { return std::max<int>(1, int(torch::stable::get_num_threads())); }

}  // namespace sparsetrain
