// spmv as a PyTorch op on the CPU. Built on torch's stable ABI: one binary serves every
// torch >= 2.11.
#include "../spmv.h"

#include <torch/csrc/stable/library.h>

#include <optional>

#include "blocked.h"
#include "entries.h"

namespace sparsetrain {
namespace {

// channels: of y, which a fake tensor's call cannot learn from the token.
Tensor spmv_cpu(const Tensor& x, const Tensor& value, const Tensor& token,
                std::optional<Tensor> bias, int64_t channels) {
  const auto entries = entries_of("spmv", token);
  const Sizes &size = entries->size, &of = entries->x_shape;
  STD_TORCH_CHECK(of[1] == 1 && of[2] == 1 && of[3] == 1 && size[0] == 1 && size[1] == 1,
                  "spmv: entries must be of [inputs, 1, 1, 1] and size [1, 1], got ", Printed{of},
                  " and ", Printed{size});
  STD_TORCH_CHECK(channels == entries->channels, "spmv: channels must be those of the entries, ",
                  entries->channels, ", got ", channels);
  Check("spmv", "x", x).dtype({ScalarType::Float}).shape({kAny, of[0]}).contiguous();
  Check("spmv", "value", value)
      .dtype({ScalarType::Float})
      .shape({entries->count(), entries->v})
      .contiguous();
  if (bias) Check("spmv", "bias", *bias).dtype({ScalarType::Float}).shape({channels}).contiguous();
  Tensor y = torch::stable::new_empty(x, {x.size(0), channels});
  if (y.numel() == 0) return y;
  const SpmvJob job{x.size(0),
                    x.size(1),
                    channels,
                    entries->groups(),
                    entries->segments,
                    entries->start_ptr(),
                    entries->offset_ptr(),
                    read<float>(value),
                    bias ? read<float>(*bias) : nullptr,
                    read<float>(x),
                    write<float>(y)};
  spmv(job, int(entries->v), by_grain);
  return y;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sparsetrain, CPU, m) { m.impl("spmv", TORCH_BOX(&spmv_cpu)); }

}  // namespace sparsetrain
