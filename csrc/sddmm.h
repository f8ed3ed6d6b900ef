// sddmm on the CPU. What it computes: sparsetrain/ops/sddmm.py.
//
// Some entries times some channels are summed at a time, lane by lane, over a tile of dy and x that
// L1 holds, and reduced across lanes once: for V = 1 a load of x for each multiply-add, for V = 4
// two loads of x and four of dy for eight. Threads share the groups, so that each gradient is
// summed by one thread in one order.
#pragma once
#include <algorithm>
#include <cstdint>

#include "spmm.h"

namespace sparsetrain {

// T is how x and dy are stored, float or BFloat16; sums are fp32.
template <typename T>
struct SddmmJob {
  SpmmShape shape;  // y stands for dy
  const int32_t* start;
  const int32_t* offset;
  const T* x;
  const T* dy;
  float* dvalue;  // [entries, V], added to
};

}  // namespace sparsetrain

#define SPARSETRAIN_LOOPS "sddmm_loops.h"
#include "each_isa.h"

namespace sparsetrain {

// Parallel(n, f) calls f(begin, end) over [0, n) on several threads.
template <typename T, typename Parallel>
void sddmm(const SddmmJob<T>& job, int v, int threads, Parallel parallel) {
  switch (isa()) {
#ifdef SPARSETRAIN_X86
    case Isa::kAvx512:
      return avx512::sddmm_on(job, v, threads, parallel);
    case Isa::kAvx2:
      return avx2::sddmm_on(job, v, threads, parallel);
#endif
    default:
      return portable::sddmm_on(job, v, threads, parallel);
  }
}

}  // namespace sparsetrain
