// The blocked layout as PyTorch ops on the CPU. Built on torch's stable ABI: one binary serves
// every torch >= 2.11.
#include "blocked.h"

#include <torch/csrc/stable/library.h>
#include <torch/headeronly/core/MemoryFormat.h>

namespace sparsetrain {
namespace {

// The numbers as bits: f gets a pointer type's worth of them.
template <typename F>
void with_bits(const Tensor& t, const F& f) {
  if (t.element_size() == 2)
    f(uint16_t());
  else if (t.element_size() == 4)
    f(uint32_t());
  else
    f(uint64_t());
}

Tensor to_blocked_cpu(const Tensor& x, int64_t lanes, Sizes halo) {
  Check("to_blocked", "x", x).axes(4, 4).dtype(kBlockedTypes).contiguous_or_channels_last();
  check_pair("to_blocked", "halo", halo);
  check_lanes("to_blocked", lanes);
  STD_TORCH_CHECK(x.size(0) % lanes == 0, "to_blocked: lanes must divide N=", x.size(0), ", got ",
                  lanes);
  const Blocking s{x.size(0) / lanes, x.size(1), x.size(2), x.size(3), lanes, halo[0], halo[1]};
  Tensor data = empty_blocked(x, s);
  if (x.numel() == 0) return torch::stable::zero_(data);
  const bool rows = !x.is_contiguous() || s.height * s.width == 1;
  with_bits(x, [&](auto bits) {
    const auto* from = static_cast<const decltype(bits)*>(x.const_data_ptr());
    auto* to = static_cast<decltype(bits)*>(data.mutable_data_ptr());
    if (rows)
      move_rows<true>(from, to, s, by_grain);
    else
      move_planes<true>(from, to, s, by_grain);
  });
  return data;
}

Tensor from_blocked_cpu(const Tensor& data, Sizes halo, bool channels_last) {
  using torch::headeronly::MemoryFormat;
  const Blocking s = blocking_of({"from_blocked", "data"}, data, halo);
  Tensor x =
      torch::stable::empty({s.blocks * s.lanes, s.channels, s.height, s.width}, data.scalar_type(),
                           std::nullopt, data.device(), std::nullopt,
                           channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
  if (x.numel() == 0) return x;
  const bool rows = channels_last || s.height * s.width == 1;
  with_bits(x, [&](auto bits) {
    const auto* from = static_cast<const decltype(bits)*>(data.const_data_ptr());
    auto* to = static_cast<decltype(bits)*>(x.mutable_data_ptr());
    if (rows)
      move_rows<false>(to, from, s, by_grain);
    else
      move_planes<false>(to, from, s, by_grain);
  });
  return x;
}

Tensor with_halo_cpu(const Tensor& data, Sizes halo, Sizes new_halo) {
  check_pair("with_halo", "new_halo", new_halo);
  const Blocking from = blocking_of({"with_halo", "data"}, data, halo);
  const Blocking to = with_halo(from, new_halo);
  Tensor out = empty_blocked(data, to);
  if (data.numel() == 0 || out.numel() == 0 || from.height == 0) return torch::stable::zero_(out);
  with_bits(data, [&](auto bits) {
    move_halo(static_cast<const decltype(bits)*>(data.const_data_ptr()), from.plane(),
              static_cast<decltype(bits)*>(out.mutable_data_ptr()), to.plane(),
              to.blocks * to.channels, by_grain);
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sparsetrain, CPU, m) {
  m.impl("to_blocked", TORCH_BOX(&to_blocked_cpu));
  m.impl("from_blocked", TORCH_BOX(&from_blocked_cpu));
  m.impl("with_halo", TORCH_BOX(&with_halo_cpu));
}

}  // namespace sparsetrain
