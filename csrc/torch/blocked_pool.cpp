// blocked_max_pool and blocked_avg_pool as PyTorch ops on the CPU. Built on torch's stable ABI: one
// binary serves every torch >= 2.11.
#include "../blocked_pool.h"

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "blocked.h"

namespace sparsetrain {
namespace {

using torch::headeronly::ScalarType;

// rows, columns: three numbers for each output, see Windows.
struct Shapes {
  Blocking from, to;
  Pooling pooling;
  Shapes(const Blocking& s, const Sizes& new_halo, const Sizes& rows, const Sizes& columns)
      : from(s), to(with_halo(s, new_halo)) {
    to.height = int64_t(rows.size()) / 3;
    to.width = int64_t(columns.size()) / 3;
    pooling = {
        from.plane(), to.plane(), {rows.data(), to.height}, {columns.data(), to.width}, from.lanes};
  }
};

Tensor pooled(const Tensor& data, const Shapes& s, uint8_t* place) {
  Tensor y = empty_blocked(data, s.to);
  if (data.numel() == 0) return torch::stable::zero_(y);
  with_type(data, [&](auto number) {
    using T = decltype(number);
    pool(read<T>(data), s.from.blocks * s.from.channels, s.pooling, write<T>(y), place, by_grain);
  });
  return y;
}

// size: height and width of x.
Tensor unpooled(const Tensor& dy, const uint8_t* place, const Sizes& rows, const Sizes& columns,
                const Sizes& size, const Sizes& halo, const Sizes& new_halo) {
  const Blocking like{dy.size(0), dy.size(1), size[0], size[1], dy.size(4), halo[0], halo[1]};
  const Shapes s(like, new_halo, rows, columns);
  Tensor dx = empty_blocked(dy, s.from);
  if (dx.numel() == 0) return dx;
  with_type(dy, [&](auto number) {
    using T = decltype(number);
    pool_backward(read<T>(dy), place, like.blocks * like.channels, s.pooling, write<T>(dx),
                  by_grain);
  });
  return dx;
}

std::tuple<Tensor, Tensor> blocked_max_pool_cpu(const Tensor& data, Sizes rows, Sizes columns,
                                                Sizes halo, Sizes new_halo) {
  const Shapes s(blocking_of(data, halo), new_halo, rows, columns);
  Tensor place = torch::stable::new_empty(
      data, {s.to.blocks, s.to.channels, s.to.height, s.to.width, s.to.lanes}, ScalarType::Byte);
  return {pooled(data, s, write<uint8_t>(place)), place};
}

Tensor blocked_max_pool_backward_cpu(const Tensor& dy, const Tensor& place, Sizes rows,
                                     Sizes columns, Sizes size, Sizes halo, Sizes new_halo) {
  return unpooled(dy, read<uint8_t>(place), rows, columns, size, halo, new_halo);
}

Tensor blocked_avg_pool_cpu(const Tensor& data, Sizes rows, Sizes columns, Sizes halo,
                            Sizes new_halo) {
  return pooled(data, Shapes(blocking_of(data, halo), new_halo, rows, columns), nullptr);
}

Tensor blocked_avg_pool_backward_cpu(const Tensor& dy, Sizes rows, Sizes columns, Sizes size,
                                     Sizes halo, Sizes new_halo) {
  return unpooled(dy, nullptr, rows, columns, size, halo, new_halo);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sparsetrain, CPU, m) {
  m.impl("blocked_max_pool", TORCH_BOX(&blocked_max_pool_cpu));
  m.impl("blocked_max_pool_backward", TORCH_BOX(&blocked_max_pool_backward_cpu));
  m.impl("blocked_avg_pool", TORCH_BOX(&blocked_avg_pool_cpu));
  m.impl("blocked_avg_pool_backward", TORCH_BOX(&blocked_avg_pool_backward_cpu));
}

}  // namespace sparsetrain
