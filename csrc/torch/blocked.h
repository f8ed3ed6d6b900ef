// What the ops on blocked tensors share: shapes, results, threads.
#pragma once
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <vector>

#include "../blocked.h"

namespace sparsetrain {

using torch::stable::Tensor;

// data: [blocks, channels, height + 2 hh, width + 2 hw, lanes]
inline Blocking blocking_of(const Tensor& data, const std::vector<int64_t>& halo) {
  return {data.size(0),
          data.size(1),
          data.size(2) - 2 * halo[0],
          data.size(3) - 2 * halo[1],
          data.size(4),
          halo[0],
          halo[1]};
}

inline Blocking with_halo(Blocking s, const std::vector<int64_t>& halo) {
  s.hh = halo[0];
  s.hw = halo[1];
  return s;
}

// Of t's dtype, nothing in it yet.
inline Tensor empty_blocked(const Tensor& t, const Blocking& s) {
  return torch::stable::new_empty(
      t, {s.blocks, s.channels, s.height + 2 * s.hh, s.width + 2 * s.hw, s.lanes});
}

// n items of that many elements, on as many threads as are worth it.
constexpr auto by_grain = [](int64_t n, int64_t elements, const auto& work) {
  constexpr int64_t kGrain = 1 << 15;
  torch::stable::parallel_for(0, n, std::max<int64_t>(1, kGrain / std::max<int64_t>(1, elements)),
                              work);
};

}  // namespace sparsetrain
