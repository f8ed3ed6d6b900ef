// blocked_batch_norm as PyTorch ops on the CPU. Built on torch's stable ABI: one binary serves
// every torch >= 2.11.
#include "../blocked_batch_norm.h"

#include <torch/csrc/stable/library.h>

#include <optional>
#include <tuple>

#include "blocked.h"

namespace sparsetrain {
namespace {

using Maybe = std::optional<Tensor>;

template <typename T>
const T* maybe(const Maybe& t) {
  return t ? read<T>(*t) : nullptr;
}

// What data's numbers are computed in, and a channel's are.
ScalarType computed_in(const Tensor& data) {
  const ScalarType dtype = data.scalar_type();
  return dtype == ScalarType::BFloat16 ? ScalarType::Float : dtype;
}

void check_channels(const char* op, const char* name, const Maybe& t, const Tensor& data) {
  if (t) Check(op, name, *t).dtype({computed_in(data)}).shape({data.size(1)}).contiguous();
}

Tensor channels_like(const Tensor& data, int64_t channels) {
  return torch::stable::new_zeros(data, {channels}, computed_in(data));
}

// Without mean and var, those of data.
std::tuple<Tensor, Tensor, Tensor> blocked_batch_norm_cpu(const Tensor& data, Maybe weight,
                                                          Maybe bias, Maybe mean, Maybe var,
                                                          double eps, bool relu, Sizes halo,
                                                          Sizes new_halo) {
  constexpr const char* op = "blocked_batch_norm";
  const Blocking s = blocking_of({op, "data"}, data, halo);
  check_pair(op, "new_halo", new_halo);
  check_channels(op, "weight", weight, data);
  check_channels(op, "bias", bias, data);
  check_channels(op, "mean", mean, data);
  check_channels(op, "var", var, data);
  STD_TORCH_CHECK(bool(mean) == bool(var), op, ": mean and var are needed both, or neither");
  const Blocking to = with_halo(s, new_halo);
  const bool moments = !mean;
  Tensor y = empty_blocked(data, to);
  Tensor m = mean ? torch::stable::clone(*mean) : channels_like(data, s.channels);
  Tensor v = var ? torch::stable::clone(*var) : channels_like(data, s.channels);
  if (data.numel() == 0) return {torch::stable::zero_(y), m, v};
  with_type(data, [&](auto number) {
    using T = decltype(number);
    using Real = RealOf<T>;
    const Norms<Real> norms{maybe<Real>(weight), maybe<Real>(bias), read<Real>(m), read<Real>(v),
                            eps};
    const auto run =
        relu ? batch_norm<T, true, decltype(by_grain)> : batch_norm<T, false, decltype(by_grain)>;
    run(read<T>(data), s, norms, write<Real>(m), write<Real>(v), moments, write<T>(y), to,
        by_grain);
  });
  return {y, m, v};
}

std::tuple<Tensor, Tensor, Tensor> blocked_batch_norm_backward_cpu(
    const Tensor& dy, const Tensor& data, Maybe weight, Maybe bias, const Tensor& mean,
    const Tensor& var, double eps, bool relu, bool training, Sizes halo, Sizes new_halo) {
  constexpr const char* op = "blocked_batch_norm_backward";
  const Blocking s = blocking_of({op, "data"}, data, halo);
  check_pair(op, "new_halo", new_halo);
  const Blocking from = with_halo(s, new_halo);
  Check(op, "dy", dy).dtype({data.scalar_type()}).shape(shape_of(from)).contiguous();
  check_channels(op, "weight", weight, data);
  check_channels(op, "bias", bias, data);
  check_channels(op, "mean", mean, data);
  check_channels(op, "var", var, data);
  Tensor dx = empty_blocked(data, s);
  Tensor dweight = channels_like(data, s.channels);
  Tensor dbias = channels_like(data, s.channels);
  if (data.numel() == 0) return {torch::stable::zero_(dx), dweight, dbias};
  with_type(data, [&](auto number) {
    using T = decltype(number);
    using Real = RealOf<T>;
    const Norms<Real> norms{maybe<Real>(weight), maybe<Real>(bias), read<Real>(mean),
                            read<Real>(var), eps};
    const auto run = relu ? batch_norm_backward<T, true, decltype(by_grain)>
                          : batch_norm_backward<T, false, decltype(by_grain)>;
    run(read<T>(dy), from, read<T>(data), s, norms, training, write<T>(dx), write<Real>(dweight),
        write<Real>(dbias), by_grain);
  });
  return {dx, dweight, dbias};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sparsetrain, CPU, m) {
  m.impl("blocked_batch_norm", TORCH_BOX(&blocked_batch_norm_cpu));
  m.impl("blocked_batch_norm_backward", TORCH_BOX(&blocked_batch_norm_backward_cpu));
}

}  // namespace sparsetrain
