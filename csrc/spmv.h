// spmv on the CPU. What it computes: sparsetrain/ops/spmv.py.
//
// Group of V outputs by group, each with the rows of x in turn while its entries are in L1: bound
// by how fast values and offsets come from memory, one after the other, or by loads of x. A
// register holds the values of an entry, or of as many entries as fill it.
//
// Raw pointers only: the same loops serve the PyTorch op (torch/spmv.cpp) and anything without
// PyTorch.
#pragma once
#include <algorithm>
#include <cstdint>

#include "vec.h"

namespace sparsetrain {

struct SpmvJob {
  int64_t rows, inputs, channels, groups,
      segments;           // groups of V channels, the last may be partial
  const int32_t* start;   // [segments * groups + 1], into offset
  const int32_t* offset;  // [entries], the input that one reads
  const float* value;     // [entries, V]
  const float* bias;      // [channels] or null
  const float* x;         // [rows, inputs]
  float* y;               // [rows, channels]
};

}  // namespace sparsetrain

#define SPARSETRAIN_LOOPS "spmv_loops.h"
#include "each_isa.h"

namespace sparsetrain {

// V of entries is 1, 4, 8 or 16. Parallel(n, elements, f) calls f(begin, end) over [0, n), items of
// that many elements, on several threads.
template <typename Parallel>
void spmv(const SpmvJob& job, int v, Parallel parallel) {
  const int64_t groups = std::max<int64_t>(1, job.groups);
  const int64_t each = job.start[job.segments * job.groups] / groups + 1;
  parallel(job.groups, job.rows * v * each, [&](int64_t begin, int64_t end) {
    switch (isa()) {
#ifdef SPARSETRAIN_X86
      case Isa::kAvx512:
        return avx512::spmv_on(job, v, begin, end);
      case Isa::kAvx2:
        return avx2::spmv_on(job, v, begin, end);
#endif
      default:
        return portable::spmv_on(job, v, begin, end);
    }
  });
}

}  // namespace sparsetrain
