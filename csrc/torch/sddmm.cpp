// sddmm as a PyTorch op on the CPU. Built on torch's stable ABI: one binary serves every
// torch >= 2.11.
#include "../sddmm.h"

#include <torch/csrc/stable/library.h>

#include "entries.h"
#include "spmm_shape.h"

namespace sparsetrain {
namespace {

// halo: of dy. shape: of the result, which a fake tensor's call cannot learn from the token.
Tensor sddmm_cpu(const Tensor& dy, const Tensor& x, const Tensor& token, Sizes halo, Sizes shape) {
  const auto entries = entries_of("sddmm", token);
  const Halo around = halo_of("sddmm", halo);
  const Sizes of_entries{entries->count(), entries->v};
  STD_TORCH_CHECK(shape == of_entries, "sddmm: shape must be that of the values, ",
                  Printed{of_entries}, ", got ", Printed{shape});
  Check("sddmm", "x", x).axes(5, 5).dtype(kStored).shape(entries->x_blocks(kAny)).contiguous();
  Check("sddmm", "dy", dy)
      .dtype({x.scalar_type()})
      .shape(entries->y_blocks(x.size(0), halo))
      .contiguous();
  Tensor dvalue = torch::stable::new_zeros(x, shape, ScalarType::Float);
  const bool empty = entries->size[0] * entries->size[1] == 0;
  if (dvalue.numel() == 0 || dy.numel() == 0 || empty) return dvalue;
  with_storage(x, [&](auto number) {
    using T = decltype(number);
    const SddmmJob<T> job{spmm_shape(x, dy, around, entries->v, entries->segments),
                          entries->start_ptr(),
                          entries->offset_ptr(),
                          static_cast<const T*>(x.const_data_ptr()),
                          static_cast<const T*>(dy.const_data_ptr()) + inside(dy, around),
                          dvalue.mutable_data_ptr<float>()};
    sddmm(job, int(entries->v), spmm_threads(), [](int64_t n, const auto& work) {
      torch::stable::parallel_for(0, n, /*grain_size=*/1, work);
    });
  });
  return dvalue;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sparsetrain, CPU, m) { m.impl("sddmm", TORCH_BOX(&sddmm_cpu)); }

}  // namespace sparsetrain
