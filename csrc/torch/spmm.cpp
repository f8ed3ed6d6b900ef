// spmm as a PyTorch op on the CPU. Built on torch's stable ABI: one binary serves every
// torch >= 2.11.
#include "../spmm.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <vector>

#include "../halo.h"
#include "spmm_shape.h"

namespace sparsetrain {
namespace {

using torch::stable::Tensor;

template <typename Work>
void share(int64_t n, const Work& work) {
  torch::stable::parallel_for(0, n, /*grain_size=*/1, work);
}

struct After {
  std::optional<Tensor> bias, residual;
  bool relu;
};

template <typename T>
void multiply(const Tensor& x, const SpmmShape& s, const SpmmEntries& entries, int64_t v,
              const After& after, Halo halo, const Tensor& y) {
  auto* to = static_cast<T*>(y.mutable_data_ptr());
  const int64_t shift = inside(y, halo), plane = y.size(2) * y.size(3) * y.size(4);
  if (halo.rows || halo.columns)
    share(y.size(0) * y.size(1), [&](int64_t begin, int64_t end) {
      for (int64_t p = begin; p < end; p++)
        zero_halo(to + p * plane, y.size(2), y.size(3), y.size(4), halo.rows, halo.columns);
    });
  const auto* residual =
      after.residual ? static_cast<const T*>(after.residual->const_data_ptr()) + shift : nullptr;
  const auto* bias = after.bias ? after.bias->const_data_ptr<float>() : nullptr;
  const SpmmJob<T> job{s,
                       entries,
                       {to + shift, bias, residual, after.relu},
                       static_cast<const T*>(x.const_data_ptr())};
  spmm(job, int(v), spmm_threads(), [](int64_t n, const auto& work) { share(n, work); });
}

// The caller in Python has checked that the entries fit x. out: channels, lines, columns and halo
// of y.
Tensor spmm_cpu(const Tensor& x, const Tensor& value, const Tensor& start, const Tensor& offset,
                std::optional<Tensor> bias, std::optional<Tensor> residual, bool relu,
                int64_t segments, std::vector<int64_t> out) {
  const int64_t v = value.size(1);
  const Halo halo{out[3], out[4]};
  Tensor y = torch::stable::new_empty(
      x, {x.size(0), out[0], out[1] + 2 * halo.rows, out[2] + 2 * halo.columns, x.size(4)});
  if (y.numel() == 0) return y;
  const SpmmEntries entries{start.const_data_ptr<int32_t>(), offset.const_data_ptr<int32_t>(),
                            value.const_data_ptr<float>()};
  with_storage(x, [&](auto number) {
    multiply<decltype(number)>(x, spmm_shape(x, y, halo, v, segments), entries, v,
                               {bias, residual, relu}, halo, y);
  });
  return y;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sparsetrain, CPU, m) { m.impl("spmm", TORCH_BOX(&spmm_cpu)); }

}  // namespace sparsetrain
