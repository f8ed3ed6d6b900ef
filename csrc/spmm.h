// spmm on the CPU. What it computes: sparsetrain/ops/spmm.py.
//
// A tile is R lines times P registers of V output channels that share their inputs, held in
// registers while all their entries pass: each entry costs one load of x for V multiply-adds. The
// work is bound by loads of x from L1 (V = 1) or by multiply-adds (V = 4, 8); a segment of the
// entries reads only some channels of x, so that these stay in L1 over all output channels.
// The order of additions is that of the entries, whatever the tile, machine width or threads.
#pragma once
#include <algorithm>
#include <cstdint>
#include <limits>
#include <memory>
#include <type_traits>

#include "vec_bf16.h"

namespace sparsetrain {

// Where a sparse product reads and writes; strides in numbers.
struct SpmmShape {
  int64_t blocks, lines, run;  // run: numbers of a line
  int64_t x_block, x_line;     // x[block * x_block + line * x_line + offset + i]
  int64_t y_block, y_line,
      y_channel;  // y[block * y_block + line * y_line + channel * y_channel + i]
  int64_t channels, groups, segments;  // groups of V output channels, the last may be partial
};

struct SpmmEntries {
  const int32_t* start;   // [segments * groups + 1], into offset
  const int32_t* offset;  // [entries]
  const float* value;     // [entries, V]
};

// T is how x and y are stored, float or BFloat16; sums are fp32.
template <typename T>
struct SpmmOutput {
  T* y;
  const float* bias;  // [channels] or null
  const T* residual;  // strides of y, or null
  bool relu;
  float most = std::numeric_limits<float>::infinity();  // of a ReLU
};

template <typename T>
struct SpmmJob {
  SpmmShape shape;
  SpmmEntries entries;
  SpmmOutput<T> output;
  const T* x;
};

// A thread's memory for sums that wait for the next segment: it stays for the thread's next call.
inline float* spmm_sums(int64_t count) {
  thread_local std::unique_ptr<float[]> sums;
  thread_local int64_t there = 0;
  if (count > there) sums.reset(new float[count]), there = count;
  return sums.get();
}

}  // namespace sparsetrain

#define SPARSETRAIN_LOOPS "spmm_loops.h"
#include "each_isa.h"

namespace sparsetrain {

// V of entries is 1, 4, 8 or 16. Parallel(n, grain, f) calls f(begin, end) over [0, n) on several
// threads; `threads` says how many there are.
template <typename T, typename Parallel>
void spmm(const SpmmJob<T>& job, int v, int threads, Parallel parallel) {
  switch (isa()) {
#ifdef SPARSETRAIN_X86
    case Isa::kAvx512:
      return avx512::spmm_on(job, v, threads, parallel);
    case Isa::kAvx2:
      return avx2::spmm_on(job, v, threads, parallel);
#endif
    default:
      return portable::spmm_on(job, v, threads, parallel);
  }
}

}  // namespace sparsetrain
