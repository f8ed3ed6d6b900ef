// What the CPU and CUDA sides of gather_channels share: shapes, and where the bytes lie.
#pragma once
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/MemoryFormat.h>

#include <optional>
#include <vector>

#include "../gather_channels.h"

namespace sparsetrain {

using torch::stable::Tensor;

inline const int64_t* indices(const std::optional<Tensor>& index) {
  return index ? index->const_data_ptr<int64_t>() : nullptr;
}

// An empty result for t, in t's memory format.
inline Tensor gathered_like(const Tensor& t, const std::optional<Tensor>& rows,
                            const std::optional<Tensor>& cols) {
  using torch::headeronly::MemoryFormat;
  const auto sizes = t.sizes();
  std::vector<int64_t> shape(sizes.begin(), sizes.end());
  if (rows) shape[0] = rows->numel();
  if (cols) shape[1] = cols->numel();
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
          last ? taps : 1,
          items,
          t.dim() > 1 ? out.size(1) : 1,
          last ? element : taps * element};
}

}  // namespace sparsetrain
