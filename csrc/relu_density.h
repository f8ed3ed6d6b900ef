// relu_density on the CPU. What it computes: sparsetrain/ops/relu_density.py.
//
// Numbers are handled as their bits: negative means that the top bit is set, and NaN lies above
// infinity, so one loop per width serves every floating dtype and never widens fp16 or bf16.
//
// Raw pointers only: the same loop serves the PyTorch op (torch/relu_density.cpp) and anything
// without PyTorch.
#pragma once
#include <algorithm>
#include <cstdint>
#include <mutex>
#include <vector>

#include "simd.h"

namespace sparsetrain {

// x, unless x <= 0. From -0 to -Inf the bits are sign to sign + inf; a NaN stays.
template <typename Bits, Bits inf>
SPARSETRAIN_LOOP Bits relu_bits(Bits x) {
  constexpr Bits sign = Bits(1) << (8 * sizeof(Bits) - 1);
  return Bits(x - sign) <= inf ? Bits(0) : x;
}

// y = relu(x), and count += non-zeros of y; n < 2^15 so that the sum fits every width.
template <typename Bits, Bits inf>
SPARSETRAIN_LOOP void relu_run(const Bits* __restrict x, Bits* __restrict y, int64_t n,
                               int64_t* count) {
  Bits nonzero = 0;
  for (int64_t i = 0; i < n; i++) {
    y[i] = relu_bits<Bits, inf>(x[i]);
    nonzero += y[i] != 0;
  }
  *count += nonzero;
}

// y = relu(x) for n < 2^15 rows of x, [n, channels], and count[c] += non-zeros in column c.
template <typename Bits, Bits inf>
SPARSETRAIN_LOOP void relu_rows(const Bits* __restrict x, Bits* __restrict y, int64_t n,
                                int64_t channels, Bits* __restrict count) {
  for (int64_t r = 0; r < n; r++, x += channels, y += channels)
    for (int64_t c = 0; c < channels; c++) {
      y[c] = relu_bits<Bits, inf>(x[c]);
      count[c] += y[c] != 0;
    }
}

constexpr int64_t kRun = 1 << 14;

// x: [batch, channels, inner]. Parallel(n, elements, f) calls f(begin, end) over [0, n), items of
// that many elements, on several threads. count, [channels], must be zero.
template <typename Bits, Bits inf, typename Parallel>
void relu_density_planes(const Bits* x, Bits* y, int64_t batch, int64_t channels, int64_t inner,
                         int64_t* count, Parallel parallel) {
  std::mutex lock;
  parallel(batch * channels, inner, [&](int64_t begin, int64_t end) {
    std::vector<int64_t> mine(channels);
    for (int64_t p = begin; p < end; p++)
      for (int64_t i = p * inner; i < (p + 1) * inner; i += kRun)
        simd<relu_run<Bits, inf>>(x + i, y + i, std::min(kRun, (p + 1) * inner - i),
                                  &mine[p % channels]);
    std::lock_guard<std::mutex> guard(lock);
    for (int64_t c = 0; c < channels; c++) count[c] += mine[c];
  });
}

// x: [rows, channels], the layout of channels_last and of matrices.
template <typename Bits, Bits inf, typename Parallel>
void relu_density_rows(const Bits* x, Bits* y, int64_t rows, int64_t channels, int64_t* count,
                       Parallel parallel) {
  std::mutex lock;
  parallel(rows, channels, [&](int64_t begin, int64_t end) {
    std::vector<int64_t> mine(channels);
    std::vector<Bits> run(channels);
    for (int64_t r = begin; r < end; r += kRun) {
      std::fill(run.begin(), run.end(), Bits(0));
      const int64_t n = std::min(kRun, end - r);
      simd<relu_rows<Bits, inf>>(x + r * channels, y + r * channels, n, channels, run.data());
      for (int64_t c = 0; c < channels; c++) mine[c] += run[c];
    }
    std::lock_guard<std::mutex> guard(lock);
    for (int64_t c = 0; c < channels; c++) count[c] += mine[c];
  });
}

}  // namespace sparsetrain
