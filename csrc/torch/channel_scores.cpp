// channel_scores as a PyTorch op on the CPU. Built on torch's stable ABI: one binary serves every
// torch >= 2.11.
#include "../channel_scores.h"

#include <torch/csrc/stable/library.h>

#include <optional>
#include <tuple>

#include "checks.h"
#include "dtype_of.h"

namespace sparsetrain {
namespace {

// A row of a matrix as floats, up to the sign, which no score depends on.
struct Rows {
  const void* data;
  Dtype dtype;
  int64_t width;
  const float* operator()(int64_t row, float* buffer) const {
    return floats(data, dtype, row * width, width, buffer);
  }
};

// kind: in the order of KINDS in Python.
std::tuple<Tensor, Tensor> channel_scores_cpu(const Tensor& weight, std::optional<Tensor> grad,
                                              int64_t kind) {
  constexpr const char* op = "channel_scores";
  STD_TORCH_CHECK(0 <= kind && kind < 4, op, ": kind must be 0, 1, 2 or 3, got ", kind);
  STD_TORCH_CHECK(kind < 2 || grad, op, ": kind ", kind, " needs grad, got none");
  Check(op, "weight", weight).axes(2).dtype(kFloating).contiguous_or_channels_last();
  if (grad) Check(op, "grad", *grad).dtype({weight.scalar_type()}).like(weight);
  const int64_t rows = weight.size(0), inputs = weight.size(1);
  Tensor out = torch::stable::new_zeros(weight, {rows}, ScalarType::Float);
  Tensor in = torch::stable::new_zeros(weight, {inputs}, ScalarType::Float);
  if (weight.numel() == 0) return {out, in};
  const int64_t taps = weight.numel() / rows / inputs;
  const ChannelShape shape{rows, inputs, taps, !weight.is_contiguous()};
  const Rows w{weight.const_data_ptr(), dtype_of(weight), inputs * taps};
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
