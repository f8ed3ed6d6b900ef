// What the ops on blocked tensors share: checks, shapes, results, threads.
#pragma once
#include <algorithm>
#include <vector>

#include "../blocked.h"
#include "../floats.h"
#include "checks.h"

namespace sparsetrain {

constexpr std::initializer_list<ScalarType> kBlockedTypes = {ScalarType::Float, ScalarType::Double,
                                                             ScalarType::BFloat16};
constexpr int64_t kMostPixels = int64_t(1) << 31;  // of a halo, or a window
constexpr int64_t kMostLanes = 1 << 20;

// Two numbers from 0 up: rows and columns.
inline void check_pair(const char* op, const char* name, const Sizes& pair) {
  STD_TORCH_CHECK(pair.size() == 2 && std::min(pair[0], pair[1]) >= 0 &&
                      std::max(pair[0], pair[1]) < kMostPixels,
                  op, ": ", name, " must be two numbers from 0 up, rows and columns, got ",
                  Printed{pair});
}

inline void check_lanes(const char* op, int64_t lanes) {
  STD_TORCH_CHECK(0 < lanes && lanes <= kMostLanes && (lanes & (lanes - 1)) == 0, op,
                  ": lanes must be a power of two, got ", lanes);
}

// data: [blocks, channels, height + 2 hh, width + 2 hw, lanes], contiguous
inline Blocking blocking_of(const Named& named, const Tensor& data, const Sizes& halo) {
  Check(named, data).axes(5, 5).dtype(kBlockedTypes).contiguous();
  check_pair(named.op, "halo", halo);
  check_lanes(named.op, data.size(4));
  STD_TORCH_CHECK(data.size(2) >= 2 * halo[0] && data.size(3) >= 2 * halo[1], named, " of shape ",
                  Printed{sizes_of(data)}, " is smaller than its halo ", Printed{halo});
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

inline Sizes shape_of(const Blocking& s) {
  return {s.blocks, s.channels, s.height + 2 * s.hh, s.width + 2 * s.hw, s.lanes};
}

// Of t's dtype, nothing in it yet.
inline Tensor empty_blocked(const Tensor& t, const Blocking& s) {
  return torch::stable::new_empty(t, shape_of(s));
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
