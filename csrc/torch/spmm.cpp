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

// The caller in Python has checked that the entries fit x. out: channels, lines, columns and halo
// of y.
Tensor spmm_cpu(const Tensor& x, const Tensor& value, const Tensor& start, const Tensor& offset,
                std::optional<Tensor> bias, std::optional<Tensor> residual, bool relu,
                int64_t segments, std::vector<int64_t> out) {
  const int64_t blocks = x.size(0), lanes = x.size(4), v = value.size(1);
  const Halo halo{out[3], out[4]};
  const int64_t rows = out[1] + 2 * halo.rows, columns = out[2] + 2 * halo.columns;
  Tensor y = torch::stable::new_empty(x, {blocks, out[0], rows, columns, lanes});
  if (y.numel() == 0) return y;
  auto* to = y.mutable_data_ptr<float>();
  if (halo.rows || halo.columns)
    share(blocks * out[0], [&](int64_t begin, int64_t end) {
      for (int64_t p = begin; p < end; p++)
        zero_halo(to + p * rows * columns * lanes, rows, columns, lanes, halo.rows, halo.columns);
    });
  const int64_t shift = inside(y, halo);
  const SpmmJob<float> job{spmm_shape(x, y, halo, v, segments),
                           {start.const_data_ptr<int32_t>(), offset.const_data_ptr<int32_t>(),
                            value.const_data_ptr<float>()},
                           {to + shift, bias ? bias->const_data_ptr<float>() : nullptr,
                            residual ? residual->const_data_ptr<float>() + shift : nullptr, relu},
                           x.const_data_ptr<float>()};
  spmm(job, int(v), spmm_threads(), [](int64_t n, const auto& work) { share(n, work); });
  return y;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sparsetrain, CPU, m) { m.impl("spmm", TORCH_BOX(&spmm_cpu)); }

}  // namespace sparsetrain
