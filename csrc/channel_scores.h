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
#include <cstdint>
#include <vector>

#include "simd.h"

namespace sparsetrain {

constexpr int kSumLanes = 8;

struct ChannelShape {
  int64_t rows, inputs, taps;
  bool last;  // channels_last: a row is [taps, inputs], else [inputs, taps]
};

// The term of one entry; each operation is rounded once, in fp32.
template <bool product, bool square>
SPARSETRAIN_LOOP double channel_term(float w, float g) {
  const float x = product ? w * g : w;
  return square ? x * x : (x < 0 ? -x : x);
}

// places[i] += term i, for i < width; returns the terms' sum.
template <bool product, bool square>
SPARSETRAIN_LOOP void add_row(const float* __restrict w, const float* __restrict g, int64_t width,
                              double* __restrict places, float* total) {
  double lane[kSumLanes] = {};
  int64_t i = 0;
  for (; i + kSumLanes <= width; i += kSumLanes)
    for (int l = 0; l < kSumLanes; l++) {
      const double term = channel_term<product, square>(w[i + l], product ? g[i + l] : 0);
      places[i + l] += term;
      lane[l] += term;
    }
  for (int l = 0; i < width; i++, l++) {
    const double term = channel_term<product, square>(w[i], product ? g[i] : 0);
    places[i] += term;
    lane[l] += term;
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
