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
constexpr int64_t kShort = 32;  // runs below it go through blocks of several

template <typename T>
struct Held {
  Held() {}  // not zeroed
  T at[kBlock];
  bool repeats = false;  // what it holds is every block
};

// Of one operand: lines of a run each.
struct Steps {
  int64_t line, run;

  bool dense(int64_t n) const { return run == 1 && line == n; }
};

// `lines` lines of n numbers from x on, side by side: in `held` unless they lie so.
template <typename T>
const T* beside(const T* x, Steps steps, int64_t lines, int64_t n, Held<T>& held) {
  if (steps.dense(n) || (lines == 1 && steps.run == 1)) return x;
  if (held.repeats) return held.at;
  for (int64_t j = 0; j < lines && n == 1; j++) held.at[j] = x[j * steps.line];
  for (int64_t j = 0; j < lines && n > 1; j++) {
    const T* from = x + j * steps.line;
    T* to = held.at + j * n;
    if (steps.run == 0)
      std::fill_n(to, n, *from);
    else
      for (int64_t i = 0; i < n; i++) to[i] = from[i * steps.run];
  }
  return held.at;
}

template <typename T>
void put(const T* made, T* y, Steps steps, int64_t lines, int64_t n) {
  for (int64_t j = 0; j < lines; j++)
    for (int64_t i = 0; i < n; i++) y[j * steps.line + i * steps.run] = made[j * n + i];
}

template <typename T>
T* data_of(const Operand& operand) {
  return static_cast<T*>(operand.data);
}

// Lines of n numbers in blocks: of whole lines, or of parts of one, which is cut into lines before.
template <typename Y, typename... X, size_t N, size_t... I, typename F>
void run_lines(const std::array<Steps, N>& steps, Y* y, const std::tuple<const X*...>& x,
               int64_t lines, int64_t n, const F& f, std::index_sequence<I...>) {
  Held<Y> made;
  std::tuple<Held<X>...> held;
  const bool dense = steps[0].dense(n) && (steps[int(I) + 1].dense(n) && ...);
  const int64_t most = dense ? lines : std::max<int64_t>(1, kBlock / n);
  for (int64_t at = 0; at < lines; at += most) {
    const int64_t count = std::min(most, lines - at);
    Y* place = y + at * steps[0].line;
    const bool direct = steps[0].dense(n) || (count == 1 && steps[0].run == 1);
    f(direct ? place : made.at,
      beside(std::get<I>(x) + at * steps[int(I) + 1].line, steps[int(I) + 1], count, n,
             std::get<I>(held))...,
      count * n);
    if (!direct) put(made.at, place, steps[0], count, n);
    ((std::get<I>(held).repeats = steps[int(I) + 1].line == 0), ...);
  }
}

// f(y, x..., n) for runs of numbers side by side of all operands, of types Y and X.
template <typename Y, typename... X, typename F, size_t... I>
void pointwise_of(const Operand& y, const Operands<sizeof...(X)>& x, Threads& threads, const F& f,
                  std::index_sequence<I...> all) {
  constexpr int N = 1 + sizeof...(X);
  Loops<N> loops = loops_of<N>({&y, x[I]...});
  if (loops.count() == 0) return;
  // A short run goes with the axis around it; any other is one of lines of a single number.
  const int64_t n = loops.run() < kShort && loops.rank > 1 ? loops.run() : 1;
  std::array<Steps, N> steps;
  for (int k = 0; k < N; k++) steps[k].run = n > 1 ? loops.step(k) : 1;
  if (n > 1) loops.rank--;
  for (int k = 0; k < N; k++) steps[k].line = loops.step(k);
  each_run(loops, threads, [&](const int64_t* offset, int64_t lines) {
    const std::tuple<const X*...> from{data_of<X>(*x[I]) + offset[I + 1]...};
    run_lines(steps, data_of<Y>(y) + offset[0], from, lines, n, f, all);
  });
}

template <typename Y, typename... X, typename F>
void pointwise(const Operand& y, const Operands<sizeof...(X)>& x, Threads& threads, const F& f) {
  pointwise_of<Y, X...>(y, x, threads, f, std::index_sequence_for<X...>());
}

}  // namespace sparsetrain::engine
