// The axes along which operands of one shape are visited together, with as few steps as possible:
// axes of size 1 are dropped, the others ordered by the first operand's strides, largest first, and
// neighbours that all operands step through evenly are one. The last axis is the run.
#pragma once
#include <algorithm>
#include <array>

#include "operation.h"

namespace sparsetrain::engine {

constexpr int64_t kAlone = 16 * 1024;  // numbers that one thread does sooner than two
constexpr int64_t kPiece = 8 * 1024;   // numbers of a run that is cut for several threads

template <int N>
struct Loops {
  int rank = 0;
  int64_t shape[kMostAxes] = {};
  int64_t stride[N][kMostAxes] = {};

  int64_t run() const { return shape[rank - 1]; }
  int64_t step(int k) const { return stride[k][rank - 1]; }  // of operand k along the run
  int64_t rows() const {
    int64_t n = 1;
    for (int a = 0; a < rank - 1; a++) n *= shape[a];
    return n;
  }
  int64_t count() const { return rows() * run(); }

  void add(int64_t size, const int64_t (&strides)[N]) {
    shape[rank] = size;
    for (int k = 0; k < N; k++) stride[k][rank] = strides[k];
    rank++;
  }

  void sort() {
    for (int last = 1; last < rank; last++)
      for (int a = last; a > 0 && before(a, a - 1); a--) swap(a, a - 1);
  }

  void merge() {
    int to = 0;
    for (int a = 1; a < rank; a++) {
      if (even(to, a)) {
        shape[a] *= shape[to];
      } else {
        to++;
      }
      move(a, to);
    }
    rank = std::min(rank, to + 1);
  }

  // Of a scalar there is one number of one axis.
  void finish() {
    sort();
    merge();
    if (rank == 0) add(1, {});
  }

 private:
  bool before(int a, int b) const {
    for (int k = 0; k < N; k++)
      if (stride[k][a] != stride[k][b]) return stride[k][a] > stride[k][b];
    return false;
  }
  bool even(int outer, int inner) const {
    for (int k = 0; k < N; k++)
      if (stride[k][outer] != stride[k][inner] * shape[inner]) return false;
    return true;
  }
  void swap(int a, int b) {
    std::swap(shape[a], shape[b]);
    for (int k = 0; k < N; k++) std::swap(stride[k][a], stride[k][b]);
  }
  void move(int from, int to) {
    shape[to] = shape[from];
    for (int k = 0; k < N; k++) stride[k][to] = stride[k][from];
  }
};

template <int N>
using Operands = std::array<const Operand*, N>;

// Of the axes for which takes(axis) holds.
template <int N, typename Takes>
Loops<N> loops_of(const Operands<N>& operands, const Takes& takes) {
  Loops<N> loops;
  for (int a = 0; a < operands[0]->rank; a++) {
    if (operands[0]->shape[a] == 1 || !takes(a)) continue;
    int64_t strides[N];
    for (int k = 0; k < N; k++) strides[k] = operands[k]->stride[a];
    loops.add(operands[0]->shape[a], strides);
  }
  loops.finish();
  return loops;
}

template <int N>
Loops<N> loops_of(const Operands<N>& operands) {
  return loops_of<N>(operands, [](int) { return true; });
}

// f(offset, row) for rows [begin, end): where each operand's run begins.
template <int N, typename F>
void each_row(const Loops<N>& loops, int64_t begin, int64_t end, const F& f) {
  int64_t at[kMostAxes] = {}, offset[N] = {}, left = begin;
  for (int a = loops.rank - 2; a >= 0 && begin < end; a--) {
    at[a] = left % loops.shape[a];
    left /= loops.shape[a];
    for (int k = 0; k < N; k++) offset[k] += at[a] * loops.stride[k][a];
  }
  for (int64_t row = begin; row < end; row++) {
    f(offset, row);
    for (int a = loops.rank - 2; a >= 0; a--) {
      for (int k = 0; k < N; k++) offset[k] += loops.stride[k][a];
      if (++at[a] < loops.shape[a]) break;
      for (int k = 0; k < N; k++) offset[k] -= loops.stride[k][a] * at[a];
      at[a] = 0;
    }
  }
}

// f(begin, end) over [0, n), on several threads where `numbers` of work are worth it.
template <typename F>
void spread(Threads& threads, int64_t n, int64_t numbers, const F& f) {
  if (n <= 0) return;
  if (numbers < kAlone) return f(int64_t(0), n);
  threads.parallel(n, f);
}

// f(share, begin, end): the same, with a number of the share, below threads.count().
template <typename F>
void shares(Threads& threads, int64_t n, int64_t numbers, const F& f) {
  if (n <= 0) return;
  const int64_t parts = numbers < kAlone ? 1 : std::min<int64_t>(n, threads.count());
  threads.parallel(parts, [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; p++) f(p, n * p / parts, n * (p + 1) / parts);
  });
}

// f(offset, n) for all runs, long ones in pieces, on all threads.
template <int N, typename F>
void each_run(const Loops<N>& loops, Threads& threads, const F& f) {
  const int64_t run = loops.run(), pieces = std::max<int64_t>(1, run / kPiece);
  spread(threads, loops.rows() * pieces, loops.count(), [&](int64_t begin, int64_t end) {
    each_row(loops, begin / pieces, (end + pieces - 1) / pieces,
             [&](const int64_t* offset, int64_t row) {
               const int64_t from = std::max<int64_t>(0, begin - row * pieces);
               const int64_t to = std::min(pieces, end - row * pieces);
               const int64_t first = run * from / pieces;
               int64_t moved[N];
               for (int k = 0; k < N; k++) moved[k] = offset[k] + first * loops.step(k);
               f(moved, run * to / pieces - first);
             });
  });
}

inline bool same_shape(const Operand& a, const Operand& b) {
  return a.rank == b.rank && std::equal(a.shape, a.shape + a.rank, b.shape);
}

inline void require_counts(const Call& call, int inputs, int attributes, const char* what) {
  require(call.inputs == inputs && call.outputs == 1 && call.attributes.count == attributes, what);
}

}  // namespace sparsetrain::engine
