// What one call of a masked optimizer step works on: parameters with their gradients, state and
// masks, all of them in one table.
//
// Threads share out the elements of all parameters together, so one large tensor and a thousand
// small ones are the same work. What happens to an element does not depend on who does it.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#include "floats.h"

namespace sparsetrain {

enum class StepDtype : int64_t { kFloat, kDouble, kBFloat16, kHalf };

// A row of the table.
struct Parameter {
  void* weight;         // [numel] dtype, as are gradient and state
  void* grad;           // read; written too where it is unscaled
  void* state[3];       // null where the step has no such state
  const uint8_t* mask;  // [numel] bool, null: nothing is pruned
  float* step;          // counter of Adam's steps
  int64_t numel;
  StepDtype dtype;
  int64_t first;  // whether the state holds nothing yet
};
static_assert(sizeof(Parameter) == 10 * sizeof(int64_t));

enum class MaskMode { kNone, kZeroState, kKeepState };

// x where the mask is 1, else exactly zero, whatever x is. By bits: a choice between numbers would
// become a branch in every lane.
template <typename Real>
SPARSETRAIN_LOOP Real masked(Real x, uint8_t mask) {
  using Bits = std::conditional_t<sizeof(Real) == 4, uint32_t, uint64_t>;
  Bits bits;
  std::memcpy(&bits, &x, sizeof bits);
  bits &= -Bits(mask);
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

template <typename Real>
SPARSETRAIN_LOOP void divide_by(Real* x, Real by, int64_t n) {
  for (int64_t i = 0; i < n; i++) x[i] /= by;
}

constexpr int64_t kPiece = 64;  // elements between two calls of fetch_ahead

// Asks for kPiece elements that lie a little ahead: the hardware alone is late with five streams.
template <typename T>
SPARSETRAIN_LOOP void fetch_ahead(const T* x) {
#ifdef SPARSETRAIN_X86
  constexpr int64_t kAhead = 256, kLine = 64;  // bytes
  const auto there = reinterpret_cast<uintptr_t>(x) + kAhead;
  for (uintptr_t i = 0; i < kPiece * sizeof(T); i += kLine)
    __builtin_prefetch(reinterpret_cast<const void*>(there + i));
#endif
}

constexpr int64_t kShare = 4096;  // elements; shares end there, so that they do not meet in a line

// step(format, row, begin, n) for blocks of all rows. Parallel(n, grain, f) calls f(begin, end)
// over [0, n) on several threads, each with `grain` or more.
template <typename Parallel, typename Step>
void for_each_block(const Parameter* table, int64_t rows, Parallel parallel, Step step) {
  std::vector<int64_t> start(rows + 1);  // of each row, in elements
  for (int64_t i = 0; i < rows; i++) start[i + 1] = start[i] + table[i].numel;
  const int64_t total = start[rows], shares = (total + kShare - 1) / kShare;
  parallel(shares, /*grain=*/8, [&](int64_t begin, int64_t end) {
    int64_t at = begin * kShare;
    const int64_t until = std::min(end * kShare, total);
    int64_t row = std::upper_bound(start.begin(), start.end(), at) - start.begin() - 1;
    for (; at < until; row++) {
      const int64_t stop = std::min(until, start[row + 1]);
      for (; at < stop; at += kFloatsBlock) {
        const int64_t n = std::min(kFloatsBlock, stop - at), from = at - start[row];
        switch (table[row].dtype) {
          case StepDtype::kFloat:
            step(Native<float>(), row, from, n);
            break;
          case StepDtype::kDouble:
            step(Native<double>(), row, from, n);
            break;
          case StepDtype::kBFloat16:
            step(BFloat16(), row, from, n);
            break;
          case StepDtype::kHalf:
            step(Half(), row, from, n);
            break;
        }
      }
      at = stop;
    }
  });
}

}  // namespace sparsetrain
