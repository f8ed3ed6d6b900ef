// What the CPU and CUDA sides of gather_channels share: shapes, and where the bytes lie.
#pragma once
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/MemoryFormat.h>

#include <vector>

#include "../gather_channels.h"

namespace sparsetrain {

using torch::stable::Tensor;

// An empty result for t, in t's memory format. Negative sizes: as many as t has.
inline Tensor gathered_like(const Tensor& t, int64_t rows, int64_t cols) {
  using torch::headeronly::MemoryFormat;
  const auto sizes = t.sizes();
  std::vector<int64_t> shape(sizes.begin(), sizes.end());
  if (rows >= 0) shape[0] = rows;
  if (cols >= 0) shape[1] = cols;
  const auto last = t.dim() == 4 ? MemoryFormat::ChannelsLast : MemoryFormat::ChannelsLast3d;
  const auto format = t.is_contiguous() ? MemoryFormat::Contiguous : last;
  return torch::stable::empty(shape, t.scalar_type(), std::nullopt, t.device(), std::nullopt,
                              format);
}

// t is contiguous or channels_last.
inline Gather gather_of(const Tensor& t, const Tensor& out) {
  const int64_t rows = t.size(0), row = rows ? t.numel() / rows : 0;
  const int64_t items = t.dim() > 1 ? t.size(1) : 1;
  const int64_t taps = items ? row / items : 0, element = t.element_size();
  const bool last = !t.is_contiguous();
  return {static_cast<const char*>(t.const_data_ptr()),
          static_cast<char*>(out.mutable_data_ptr()),
          nullptr,
          nullptr,
          out.size(0),
          last ? taps : 1,
          items,
          t.dim() > 1 ? out.size(1) : 1,
          last ? element : taps * element};
}

struct Gathered {
  std::vector<Tensor> out;
  std::vector<Gather> gathers;  // of those that are not empty
};

// Results to be filled. rows, cols: for each tensor a place in indices, negative: all.
inline Gathered gathered(const std::vector<Tensor>& tensors, const std::vector<Tensor>& indices,
                         const std::vector<int64_t>& rows, const std::vector<int64_t>& cols) {
  Gathered all;
  for (size_t i = 0; i < tensors.size(); i++) {
    const Tensor *row = rows[i] < 0 ? nullptr : &indices[rows[i]],
                 *col = cols[i] < 0 ? nullptr : &indices[cols[i]];
    all.out.push_back(gathered_like(tensors[i], row ? row->numel() : -1, col ? col->numel() : -1));
    if (all.out.back().numel() == 0) continue;
    Gather g = gather_of(tensors[i], all.out.back());
    g.rows = row ? row->const_data_ptr<int64_t>() : nullptr;
    g.cols = col ? col->const_data_ptr<int64_t>() : nullptr;
    all.gathers.push_back(g);
  }
  return all;
}

}  // namespace sparsetrain
