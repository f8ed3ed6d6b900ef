// channel_scores as a PyTorch op on the CPU. Built on torch's stable ABI: one binary serves every
// torch >= 2.11.
#include "../channel_scores.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <tuple>

#include "dtype_of.h"

namespace sparsetrain {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// A row of a matrix as floats, up to the sign, which no score depends on.
struct Rows {
  const void* data;
  Dtype dtype;
  int64_t width;
  const float* operator()(int64_t row, float* buffer) const {
    return floats(data, dtype, row * width, width, buffer);
  }
};

// weight is contiguous or channels_last, and grad is like it. kind: in the order of KINDS in
// Python.
std::tuple<Tensor, Tensor> channel_scores_cpu(const Tensor& weight, std::optional<Tensor> grad,
                                              int64_t kind) {
  const int64_t rows = weight.size(0), inputs = weight.size(1);
  const int64_t taps = rows * inputs ? weight.numel() / (rows * inputs) : 0;
  const ChannelShape shape{rows, inputs, taps, !weight.is_contiguous()};
  Tensor out = torch::stable::new_empty(weight, {rows}, ScalarType::Float);
  Tensor in = torch::stable::new_empty(weight, {inputs}, ScalarType::Float);
  const Rows w{weight.const_data_ptr(), dtype_of(weight, "channel_scores: weight"), inputs * taps};
  const Rows g{grad ? grad->const_data_ptr() : nullptr, w.dtype, w.width};
  auto* to_out = out.mutable_data_ptr<float>();
  auto* to_in = in.mutable_data_ptr<float>();
  const auto parallel = [](int64_t n, const auto& work) {
    torch::stable::parallel_for(0, n, /*grain_size=*/1, work);
  };
  if (kind == 0) channel_scores<false, false>(shape, w, g, to_out, to_in, parallel);
  if (kind == 1) channel_scores<false, true>(shape, w, g, to_out, to_in, parallel);
  if (kind == 2) channel_scores<true, false>(shape, w, g, to_out, to_in, parallel);
  if (kind == 3) channel_scores<true, true>(shape, w, g, to_out, to_in, parallel);
  return {out, in};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sparsetrain, CPU, m) {
  m.impl("channel_scores", TORCH_BOX(&channel_scores_cpu));
}

}  // namespace sparsetrain
