// What the CPU and CUDA sides of gather_channels share: shapes, and where the bytes lie.
#pragma once
#include <torch/headeronly/core/MemoryFormat.h>

#include <vector>

#include "../gather_channels.h"
#include "checks.h"

namespace sparsetrain {

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

struct Range {
  int64_t least, most;
};

struct Gathered {
  std::vector<Tensor> out;
  std::vector<Gather> gathers;  // of those that are not empty
};

// The smallest and the largest number of each index that the host can read; of others, none.
inline std::vector<Range> ranges_of(const std::vector<Tensor>& indices) {
  std::vector<Range> ranges;
  for (const Tensor& index : indices) {
    const int64_t n = index.is_cpu() ? index.numel() : 0;
    const auto* from = n ? index.const_data_ptr<int64_t>() : nullptr;
    const auto ends = std::minmax_element(from, from + n);
    ranges.push_back(n ? Range{*ends.first, *ends.second} : Range{0, -1});
  }
  return ranges;
}

// The index of a tensor's axis, null for all of it. Its numbers are not looked at on a GPU, where
// the caller in Python has waited for them once.
inline const Tensor* index_of(const std::vector<Tensor>& indices, const std::vector<Range>& ranges,
                              int64_t place, const Tensor& t, int64_t axis) {
  if (place < 0) return nullptr;
  const char* name = axis == 0 ? "rows" : "cols";
  STD_TORCH_CHECK(place < int64_t(indices.size()), "gather_channels: ", name, " has ", place,
                  ", there are ", indices.size(), " indices");
  STD_TORCH_CHECK(t.dim() > axis, "gather_channels: ", name, " needs ", axis + 1,
                  " axes or more, got shape ", Printed{sizes_of(t)});
  const Range& range = ranges[place];
  STD_TORCH_CHECK(range.least >= 0 && range.most < t.size(axis), "gather_channels: ", name, " has ",
                  range.least < 0 ? range.least : range.most, ", axis ", axis,
                  " of a tensor has size ", t.size(axis));
  return &indices[place];
}

inline void check_gather(const std::vector<Tensor>& tensors, const std::vector<Tensor>& indices,
                         const std::vector<int64_t>& rows, const std::vector<int64_t>& cols) {
  constexpr const char* op = "gather_channels";
  check_length({op, "rows"}, rows, tensors.size());
  check_length({op, "cols"}, cols, tensors.size());
  for (size_t i = 0; i < tensors.size(); i++)
    Check({op, "tensors", int64_t(i)}, tensors[i])
        .axes(1)
        .on(tensors[0])
        .contiguous_or_channels_last();
  for (size_t i = 0; i < indices.size(); i++) {
    const Check index({op, "indices", int64_t(i)}, indices[i]);
    index.axes(1, 1).dtype({ScalarType::Long}).contiguous();
    if (!tensors.empty()) index.on(tensors[0]);
  }
}

// Results to be filled. rows, cols: for each tensor a place in indices, negative: all.
inline Gathered gathered(const std::vector<Tensor>& tensors, const std::vector<Tensor>& indices,
                         const std::vector<int64_t>& rows, const std::vector<int64_t>& cols) {
  check_gather(tensors, indices, rows, cols);
  const std::vector<Range> ranges = ranges_of(indices);
  Gathered all;
  for (size_t i = 0; i < tensors.size(); i++) {
    const Tensor *row = index_of(indices, ranges, rows[i], tensors[i], 0),
                 *col = index_of(indices, ranges, cols[i], tensors[i], 1);
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
