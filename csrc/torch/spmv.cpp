// spmv as a PyTorch op on the CPU. Built on torch's stable ABI: one binary serves every
// torch >= 2.11.
#include "../spmv.h"

#include <torch/csrc/stable/library.h>

#include <optional>

#include "blocked.h"

namespace sparsetrain {
namespace {

// The caller in Python has checked that the entries fit x.
Tensor spmv_cpu(const Tensor& x, const Tensor& value, const Tensor& start, const Tensor& offset,
                std::optional<Tensor> bias, int64_t segments, int64_t channels) {
  const int64_t v = value.size(1);
  Tensor y = torch::stable::new_empty(x, {x.size(0), channels});
  if (y.numel() == 0) return y;
  const SpmvJob job{x.size(0),
                    x.size(1),
                    channels,
                    (channels + v - 1) / v,
                    segments,
                    read<int32_t>(start),
                    read<int32_t>(offset),
                    read<float>(value),
                    bias ? read<float>(*bias) : nullptr,
                    read<float>(x),
                    write<float>(y)};
  spmv(job, int(v), by_grain);
  return y;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sparsetrain, CPU, m) { m.impl("spmv", TORCH_BOX(&spmv_cpu)); }

}  // namespace sparsetrain
