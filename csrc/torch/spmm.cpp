// spmm as a PyTorch op on the CPU. Built on torch's stable ABI: one binary serves every
// torch >= 2.11.
#include "../spmm.h"

#include <torch/csrc/stable/library.h>

#include <optional>

#include "../halo.h"
#include "entries.h"
#include "spmm_shape.h"

namespace sparsetrain {
namespace {

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

// size: channels, lines and columns of y, which a fake tensor's call cannot learn from the token.
Tensor spmm_cpu(const Tensor& x, const Tensor& value, const Tensor& token,
                std::optional<Tensor> bias, std::optional<Tensor> residual, bool relu, Sizes halo,
                Sizes size) {
  const auto entries = entries_of("spmm", token);
  const Halo around = halo_of("spmm", halo);
  const Sizes of_entries{entries->channels, entries->size[0], entries->size[1]};
  STD_TORCH_CHECK(size == of_entries, "spmm: size must be that of the entries, ",
                  Printed{of_entries}, ", got ", Printed{size});
  Check("spmm", "x", x).axes(5, 5).dtype(kStored).shape(entries->x_blocks(kAny)).contiguous();
  Check("spmm", "value", value)
      .dtype({ScalarType::Float})
      .shape({entries->count(), entries->v})
      .contiguous();
  const Sizes y_shape = entries->y_blocks(x.size(0), halo);
  if (bias) Check("spmm", "bias", *bias).dtype({ScalarType::Float}).shape({size[0]}).contiguous();
  if (residual)
    Check("spmm", "residual", *residual).dtype({x.scalar_type()}).shape(y_shape).contiguous();
  Tensor y = torch::stable::new_empty(x, y_shape);
  if (y.numel() == 0) return y;
  if (size[1] * size[2] == 0) return torch::stable::zero_(y);  // all halo
  const SpmmEntries where{entries->start_ptr(), entries->offset_ptr(),
                          value.const_data_ptr<float>()};
  with_storage(x, [&](auto number) {
    multiply<decltype(number)>(x, spmm_shape(x, y, around, entries->v, entries->segments), where,
                               entries->v, {bias, residual, relu}, around, y);
  });
  return y;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sparsetrain, CPU, m) { m.impl("spmm", TORCH_BOX(&spmm_cpu)); }

}  // namespace sparsetrain
