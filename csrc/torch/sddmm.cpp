// sddmm as a PyTorch op on the CPU. Built on torch's stable ABI: one binary serves every
// torch >= 2.11.
#include "../sddmm.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <vector>

#include "spmm_shape.h"

namespace sparsetrain {
namespace {

using torch::stable::Tensor;

// The caller in Python has checked that the entries fit x. halo: of dy.
Tensor sddmm_cpu(const Tensor& dy, const Tensor& x, const Tensor& start, const Tensor& offset,
                 int64_t v, int64_t segments, std::vector<int64_t> halo) {
  using torch::headeronly::ScalarType;
  Tensor dvalue = torch::stable::new_zeros(x, {offset.size(0), v}, ScalarType::Float);
  if (dvalue.numel() == 0 || dy.numel() == 0) return dvalue;
  const Halo around{halo[0], halo[1]};
  with_storage(x, [&](auto number) {
    using T = decltype(number);
    const SddmmJob<T> job{spmm_shape(x, dy, around, v, segments),
                          start.const_data_ptr<int32_t>(),
                          offset.const_data_ptr<int32_t>(),
                          static_cast<const T*>(x.const_data_ptr()),
                          static_cast<const T*>(dy.const_data_ptr()) + inside(dy, around),
                          dvalue.mutable_data_ptr<float>()};
    sddmm(job, int(v), spmm_threads(), [](int64_t n, const auto& work) {
      torch::stable::parallel_for(0, n, /*grain_size=*/1, work);
    });
  });
  return dvalue;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sparsetrain, CPU, m) { m.impl("sddmm", TORCH_BOX(&sddmm_cpu)); }

}  // namespace sparsetrain
