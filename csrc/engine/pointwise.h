// What operations on one number at a time share: their loops see numbers side by side, whatever
// the strides are. What is not so in memory passes through small blocks in L1.
#pragma once
#include <tuple>
#include <utility>

#include "../simd.h"
#include "loops.h"

// Before a loop that may write where it reads, number by number.
#if defined(__clang__)
#define SPARSETRAIN_IN_PLACE _Pragma("clang loop vectorize(assume_safety)")
#elif defined(__GNUC__)
#define SPARSETRAIN_IN_PLACE _Pragma("GCC ivdep")
#else
#define SPARSETRAIN_IN_PLACE
#endif

namespace sparsetrain::engine {

constexpr int64_t kBlock = 512;

template <typename T>
struct Held {
  Held() {}  // not zeroed
  T at[kBlock];
};

// n numbers from x on, side by side: in `held` unless they lie so.
template <typename T>
const T* beside(const T* x, int64_t step, int64_t n, Held<T>& held) {
  if (step == 1) return x;
  if (step == 0)
    std::fill_n(held.at, n, *x);
  else
    for (int64_t i = 0; i < n; i++) held.at[i] = x[i * step];
  return held.at;
}

template <typename T>
T* data_of(const Operand& operand) {
  return static_cast<T*>(operand.data);
}

template <typename Y, typename... X, int N, size_t... I, typename F>
void run_in_blocks(const Loops<N>& loops, Y* y, const std::tuple<const X*...>& x, int64_t n,
                   const F& f, std::index_sequence<I...>) {
  Held<Y> made;
  std::tuple<Held<X>...> held;
  const bool dense = loops.step(0) == 1 && ((loops.step(int(I) + 1) == 1) && ...);
  const int64_t most = dense ? n : kBlock;
  for (int64_t at = 0; at < n; at += most) {
    const int64_t count = std::min(most, n - at), step = loops.step(0);
    Y* to = step == 1 ? y + at : made.at;
    f(to,
      beside(std::get<I>(x) + at * loops.step(int(I) + 1), loops.step(int(I) + 1), count,
             std::get<I>(held))...,
      count);
    if (step != 1)
      for (int64_t i = 0; i < count; i++) y[(at + i) * step] = made.at[i];
  }
}

// f(y, x..., n) for runs of numbers side by side of all operands, of types Y and X.
template <typename Y, typename... X, typename F, size_t... I>
void pointwise_of(const Operand& y, const Operands<sizeof...(X)>& x, Threads& threads, const F& f,
                  std::index_sequence<I...> all) {
  constexpr int N = 1 + sizeof...(X);
  const Loops<N> loops = loops_of<N>({&y, x[I]...});
  if (loops.count() == 0) return;
  each_run(loops, threads, [&](const int64_t* offset, int64_t n) {
    const std::tuple<const X*...> from{data_of<X>(*x[I]) + offset[I + 1]...};
    run_in_blocks<Y, X...>(loops, data_of<Y>(y) + offset[0], from, n, f, all);
  });
}

template <typename Y, typename... X, typename F>
void pointwise(const Operand& y, const Operands<sizeof...(X)>& x, Threads& threads, const F& f) {
  pointwise_of<Y, X...>(y, x, threads, f, std::index_sequence_for<X...>());
}

}  // namespace sparsetrain::engine
