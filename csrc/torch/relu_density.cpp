// relu_density as a PyTorch op on the CPU. Built on torch's stable ABI: one binary serves every
// torch >= 2.11.
#include "../relu_density.h"

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "checks.h"

namespace sparsetrain {
namespace {

constexpr int64_t kGrain = 1 << 15;  // elements that are worth a thread

template <typename Bits, Bits inf>
void run(const Tensor& x, const Tensor& y, const Tensor& count) {
  const auto* from = static_cast<const Bits*>(x.const_data_ptr());
  auto* to = static_cast<Bits*>(y.mutable_data_ptr());
  auto* c = count.mutable_data_ptr<int64_t>();
  const int64_t channels = x.size(1), numel = x.numel();
  if (numel == 0) return;
  const int64_t inner = numel / x.size(0) / channels;
  const auto parallel = [](int64_t n, int64_t elements, const auto& work) {
    torch::stable::parallel_for(0, n, std::max<int64_t>(1, kGrain / elements), work);
  };
  if (inner == 1 || !x.is_contiguous())
    relu_density_rows<Bits, inf>(from, to, numel / channels, channels, c, parallel);
  else
    relu_density_planes<Bits, inf>(from, to, x.size(0), channels, inner, c, parallel);
}

// y is like x.
std::tuple<Tensor, Tensor> relu_density_cpu(const Tensor& x) {
  Check("relu_density", "x", x).axes(2).dtype(kFloating).contiguous_or_channels_last();
  Tensor y = torch::stable::empty_like(x);
  Tensor count = torch::stable::new_zeros(x, {x.size(1)}, ScalarType::Long);
  switch (x.scalar_type()) {
    case ScalarType::Float:
      run<uint32_t, 0x7f800000>(x, y, count);
      break;
    case ScalarType::Double:
      run<uint64_t, 0x7ff0000000000000>(x, y, count);
      break;
    case ScalarType::BFloat16:
      run<uint16_t, 0x7f80>(x, y, count);
      break;
    default:  // fp16
      run<uint16_t, 0x7c00>(x, y, count);
  }
  return {y, count};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sparsetrain, CPU, m) {
  m.impl("relu_density", TORCH_BOX(&relu_density_cpu));
}

}  // namespace sparsetrain
