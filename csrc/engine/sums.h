// What reductions, norms and softmax share: tensors as rows of `kept` axes, each with all of the
// axes that are summed over, and sums that keep float's precision however many numbers there are.
//
// Where the innermost axis is kept, up to kLanes rows that lie side by side are summed together;
// where it is summed over, each row's runs are.
#pragma once
#include "pointwise.h"

namespace sparsetrain::engine {

constexpr int64_t kLanes = 64;

template <int N>
struct Rows {
  Loops<N> kept, summed;

  // Of `operands`, the axes for which sums(axis) holds are summed over.
  template <typename Sums>
  Rows(const Operands<N>& operands, const Sums& sums)
      : kept(loops_of<N>(operands, [&](int a) { return !sums(a); })),
        summed(loops_of<N>(operands, sums)) {}

  // Whether rows lie side by side: of the first operand, which is read.
  bool beside() const {
    return kept.step(0) == 1 && kept.run() > 1 && !(summed.step(0) == 1 && summed.run() > 1);
  }
  int64_t lanes() const { return beside() ? std::min(kLanes, kept.run()) : 1; }
};

// f(offset, lanes) for groups of rows that are summed together, on all threads.
template <int N, typename F>
void each_group(const Rows<N>& rows, Threads& threads, const F& f) {
  const int64_t most = rows.lanes(), run = rows.kept.run(), groups = (run + most - 1) / most;
  const int64_t numbers = rows.kept.count() * rows.summed.count();
  shares(threads, rows.kept.rows() * groups, numbers,
         [&](int64_t share, int64_t begin, int64_t end) {
           each_row(rows.kept, begin / groups, (end + groups - 1) / groups,
                    [&](const int64_t* offset, int64_t row) {
                      const int64_t from = std::max<int64_t>(0, begin - row * groups);
                      const int64_t to = std::min(groups, end - row * groups);
                      for (int64_t g = from; g < to; g++) {
                        int64_t moved[N];
                        for (int k = 0; k < N; k++)
                          moved[k] = offset[k] + g * most * rows.kept.step(k);
                        f(moved, std::min(most, run - g * most), share);
                      }
                    });
         });
}

// f(offset, n) for all runs along the summed axes, from where a group begins.
template <int N, typename F>
void each_summed(const Rows<N>& rows, const int64_t* begin, const F& f) {
  each_row(rows.summed, 0, rows.summed.rows(), [&](const int64_t* offset, int64_t) {
    int64_t at[N];
    for (int k = 0; k < N; k++) at[k] = begin[k] + offset[k];
    f(at, rows.summed.run());
  });
}

}  // namespace sparsetrain::engine
