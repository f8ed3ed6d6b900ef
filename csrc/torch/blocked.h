// What the ops on blocked tensors share: shapes, results, threads.
#pragma once
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <vector>

#include "../blocked.h"
#include "../floats.h"

namespace sparsetrain {

using torch::stable::Tensor;
using Sizes = std::vector<int64_t>;

// data: [blocks, channels, height + 2 hh, width + 2 hw, lanes]
inline Blocking blocking_of(const Tensor& data, const Sizes& halo) {
  return {data.size(0),
          data.size(1),
          data.size(2) - 2 * halo[0],
          data.size(3) - 2 * halo[1],
          data.size(4),
          halo[0],
          halo[1]};
}

inline Blocking with_halo(Blocking s, const Sizes& halo) {
  s.hh = halo[0];
  s.hw = halo[1];
  return s;
}

// Of t's dtype, nothing in it yet.
inline Tensor empty_blocked(const Tensor& t, const Blocking& s) {
  return torch::stable::new_empty(
      t, {s.blocks, s.channels, s.height + 2 * s.hh, s.width + 2 * s.hw, s.lanes});
}

template <typename T>
const T* read(const Tensor& t) {
  return static_cast<const T*>(t.const_data_ptr());
}

template <typename T>
T* write(const Tensor& t) {
  return static_cast<T*>(t.mutable_data_ptr());
}

// f gets a number of data's dtype.
template <typename F>
void with_type(const Tensor& data, const F& f) {
  using torch::headeronly::ScalarType;
  if (data.scalar_type() == ScalarType::BFloat16)
    f(BFloat16());
  else if (data.scalar_type() == ScalarType::Float)
    f(float());
  else
    f(double());
}

// n items of that many elements, on as many threads as are worth it.
constexpr auto by_grain = [](int64_t n, int64_t elements, const auto& work) {
  constexpr int64_t kGrain = 1 << 15;
  torch::stable::parallel_for(0, n, std::max<int64_t>(1, kGrain / std::max<int64_t>(1, elements)),
                              work);
};

}  // namespace sparsetrain
