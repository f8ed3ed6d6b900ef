// channel_scores on the CPU. What it computes: sparsetrain/ops/channel_scores.py.
//
// A weight is a matrix [rows, width] in memory, width = inputs * taps in either layout, so that
// both reductions run along contiguous memory: a row's terms are added into eight lanes, and into
// one fp64 sum for each place of the row, which are folded into inputs once for a chunk of rows.
// Chunks have a size that does not depend on the number of threads, and are added up in order.
//
// Raw pointers only: the same loop serves the PyTorch op (torch/channel_scores.cpp) and anything
// without PyTorch.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "simd.h"

namespace sparsetrain {

constexpr int kSumLanes = 8;
constexpr int64_t kTerms = 256;  // computed at a time: in L1

struct ChannelShape {
  int64_t rows, inputs, taps;
  bool last;  // channels_last: a row is [taps, inputs], else [inputs, taps]
};

// The terms of n entries; each operation is rounded once, in fp32.
template <bool product, bool square>
SPARSETRAIN_LOOP void channel_terms(const float* __restrict w, const float* __restrict g, int64_t n,
                                    double* __restrict term) {
  for (int64_t i = 0; i < n; i++) {
    const float x = product ? w[i] * g[i] : w[i];
    term[i] = square ? x * x : std::fabs(x);
  }
}

// places[i] += term i, for i < width; *total = the terms' sum. Loops are apart, each over local
// memory, so that a compiler vectorises them.
template <bool product, bool square>
SPARSETRAIN_LOOP void add_row(const float* w, const float* g, int64_t width, double* places,
                              float* total) {
  double lane[kSumLanes] = {};
  alignas(64) double term[kTerms];
  for (int64_t begin = 0; begin < width; begin += kTerms) {
    const int64_t n = std::min(kTerms, width - begin);
    channel_terms<product, square>(w + begin, product ? g + begin : nullptr, n, term);
    for (int64_t i = n; i < kTerms && i % kSumLanes; i++) term[i] = 0;
    for (int64_t i = 0; i < n; i++) places[begin + i] += term[i];
    for (int64_t i = 0; i < n; i += kSumLanes)
      for (int l = 0; l < kSumLanes; l++) lane[l] += term[i + l];
  }
  *total = float(((lane[0] + lane[1]) + (lane[2] + lane[3])) +
                 ((lane[4] + lane[5]) + (lane[6] + lane[7])));
}

// inputs[i] = sum over the taps of places, in order.
inline void fold_taps(const ChannelShape& shape, const double* places, double* inputs) {
  for (int64_t i = 0; i < shape.inputs; i++) {
    double sum = 0;
    for (int64_t t = 0; t < shape.taps; t++)
      sum += places[shape.last ? t * shape.inputs + i : i * shape.taps + t];
    inputs[i] = sum;
  }
}

// Rows of a chunk: enough to be worth a thread, and at most 64 chunks.
inline int64_t chunk_rows(const ChannelShape& shape) {
  const int64_t width = std::max<int64_t>(1, shape.inputs * shape.taps);
  return std::max<int64_t>({1, (1 << 16) / width, (shape.rows + 63) / 64});
}

// Reader(row, buffer of width) gives a row as floats: in place, or in the buffer. Parallel(n, f)
// calls f(begin, end) over [0, n) on several threads. w and g: readers; g is not called unless
// product. outputs: [rows]; inputs: [inputs].
template <bool product, bool square, typename Reader, typename Parallel>
void channel_scores(const ChannelShape& shape, Reader w, Reader g, float* outputs, float* inputs,
                    Parallel parallel) {
  const int64_t width = shape.inputs * shape.taps, per = chunk_rows(shape);
  const int64_t chunks = (shape.rows + per - 1) / per;
  std::vector<double> partial(chunks * shape.inputs);
  parallel(chunks, [&](int64_t begin, int64_t end) {
    std::vector<float> w_buffer(width), g_buffer(width);
    std::vector<double> places(width);
    for (int64_t c = begin; c < end; c++) {
      std::fill(places.begin(), places.end(), 0.0);
      for (int64_t r = c * per; r < std::min((c + 1) * per, shape.rows); r++)
        simd<add_row<product, square>>(w(r, w_buffer.data()),
                                       product ? g(r, g_buffer.data()) : nullptr, width,
                                       places.data(), outputs + r);
      fold_taps(shape, places.data(), partial.data() + c * shape.inputs);
    }
  });
  for (int64_t i = 0; i < shape.inputs; i++) {
    double sum = 0;
    for (int64_t c = 0; c < chunks; c++) sum += partial[c * shape.inputs + i];
    inputs[i] = float(sum);
  }
}

}  // namespace sparsetrain
