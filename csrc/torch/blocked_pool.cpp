// blocked_max_pool and blocked_avg_pool as PyTorch ops on the CPU. Built on torch's stable ABI: one
// binary serves every torch >= 2.11.
#include "../blocked_pool.h"

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "blocked.h"

namespace sparsetrain {
namespace {

constexpr int64_t kPlaces = 256;  // of a window, at most: a maximum's place is a byte

// Checks the windows of one axis over `size` inputs; returns the most that one has.
int64_t longest(const char* op, const char* axis, const Sizes& windows, int64_t size) {
  int64_t most = 0;
  STD_TORCH_CHECK(windows.size() % 3 == 0, op, ": ", axis,
                  " must be three numbers for each output, got ", windows.size());
  for (size_t i = 0; i < windows.size(); i += 3) {
    const int64_t begin = windows[i], end = windows[i + 1], length = windows[i + 2];
    STD_TORCH_CHECK(0 <= begin && begin < end && end <= size && 0 < length && length < kMostPixels,
                    op, ": a window of ", axis, " must lie in [0, ", size, "), got ", begin, " to ",
                    end, " of length ", length);
    most = std::max(most, end - begin);
  }
  return most;
}

// rows, columns: three numbers for each output, see Windows; they outlive this.
struct Shapes {
  Blocking from, to;
  const Sizes &rows, &columns;
  int64_t places;  // of the largest window
  Shapes(const char* op, const Blocking& s, const Sizes& new_halo, const Sizes& rows,
         const Sizes& columns)
      : from(s), to(s), rows(rows), columns(columns) {
    check_pair(op, "new_halo", new_halo);
    places = longest(op, "rows", rows, s.height) * longest(op, "columns", columns, s.width);
    to = with_halo(s, new_halo);
    to.height = int64_t(rows.size()) / 3;
    to.width = int64_t(columns.size()) / 3;
  }
  Pooling pooling() const {
    return {
        from.plane(), to.plane(), {rows.data(), to.height}, {columns.data(), to.width}, from.lanes};
  }
};

Tensor pooled(const Tensor& data, const Shapes& s, uint8_t* place) {
  Tensor y = empty_blocked(data, s.to);
  if (data.numel() == 0 || y.numel() == 0) return torch::stable::zero_(y);
  const Pooling pooling = s.pooling();
  with_type(data, [&](auto number) {
    using T = decltype(number);
    pool(read<T>(data), s.from.blocks * s.from.channels, pooling, write<T>(y), place, by_grain);
  });
  return y;
}

Sizes place_shape(const Blocking& y) { return {y.blocks, y.channels, y.height, y.width, y.lanes}; }

// size: height and width of x; place: of the maximum, null for the mean.
Tensor unpooled(const char* op, const Tensor& dy, const Tensor* place, const Sizes& rows,
                const Sizes& columns, const Sizes& size, const Sizes& halo, const Sizes& new_halo) {
  check_pair(op, "size", size);
  check_pair(op, "halo", halo);
  Check(op, "dy", dy).axes(5, 5).dtype(kBlockedTypes).contiguous();
  check_lanes(op, dy.size(4));
  const Blocking like{dy.size(0), dy.size(1), size[0], size[1], dy.size(4), halo[0], halo[1]};
  const Shapes s(op, like, new_halo, rows, columns);
  Check(op, "dy", dy).shape(shape_of(s.to));
  if (place)
    Check(op, "place", *place).dtype({ScalarType::Byte}).shape(place_shape(s.to)).contiguous();
  Tensor dx = empty_blocked(dy, s.from);
  if (dx.numel() == 0 || dy.numel() == 0) return torch::stable::zero_(dx);
  const Pooling pooling = s.pooling();
  with_type(dy, [&](auto number) {
    using T = decltype(number);
    const uint8_t* places = place ? read<uint8_t>(*place) : nullptr;
    pool_backward(read<T>(dy), places, like.blocks * like.channels, pooling, write<T>(dx),
                  by_grain);
  });
  return dx;
}

std::tuple<Tensor, Tensor> blocked_max_pool_cpu(const Tensor& data, Sizes rows, Sizes columns,
                                                Sizes halo, Sizes new_halo) {
  constexpr const char* op = "blocked_max_pool";
  const Shapes s(op, blocking_of({op, "data"}, data, halo), new_halo, rows, columns);
  STD_TORCH_CHECK(s.places <= kPlaces, op, ": a window has ", kPlaces, " places at most, got ",
                  s.places);
  Tensor place = torch::stable::new_empty(data, place_shape(s.to), ScalarType::Byte);
  return {pooled(data, s, write<uint8_t>(place)), place};
}

Tensor blocked_max_pool_backward_cpu(const Tensor& dy, const Tensor& place, Sizes rows,
                                     Sizes columns, Sizes size, Sizes halo, Sizes new_halo) {
  return unpooled("blocked_max_pool_backward", dy, &place, rows, columns, size, halo, new_halo);
}

Tensor blocked_avg_pool_cpu(const Tensor& data, Sizes rows, Sizes columns, Sizes halo,
                            Sizes new_halo) {
  constexpr const char* op = "blocked_avg_pool";
  const Blocking from = blocking_of({op, "data"}, data, halo);
  return pooled(data, Shapes(op, from, new_halo, rows, columns), nullptr);
}

Tensor blocked_avg_pool_backward_cpu(const Tensor& dy, Sizes rows, Sizes columns, Sizes size,
                                     Sizes halo, Sizes new_halo) {
  return unpooled("blocked_avg_pool_backward", dy, nullptr, rows, columns, size, halo, new_halo);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sparsetrain, CPU, m) {
  m.impl("blocked_max_pool", TORCH_BOX(&blocked_max_pool_cpu));
  m.impl("blocked_max_pool_backward", TORCH_BOX(&blocked_max_pool_backward_cpu));
  m.impl("blocked_avg_pool", TORCH_BOX(&blocked_avg_pool_cpu));
  m.impl("blocked_avg_pool_backward", TORCH_BOX(&blocked_avg_pool_backward_cpu));
}

}  // namespace sparsetrain
