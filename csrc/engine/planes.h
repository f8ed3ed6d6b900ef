// Images [N, C, H, W] as planes of lines, for operations that slide windows over them: a line has
// columns of `lanes` numbers each, which are N, C or nothing, whichever is innermost in memory. So
// loops run along a whole line, and what lies otherwise in memory is put into lines first.
#pragma once
#include "loops.h"
#include "pointwise.h"

namespace sparsetrain::engine {

// Where one operand has its planes.
struct Plane {
  float* data;
  int64_t outer[2], row, column, lane;  // strides
  int64_t rows, columns, lanes;

  float* line(int64_t i, int64_t inner, int64_t at) const {
    return data + i / inner * outer[0] + i % inner * outer[1] + at * row;
  }
  int64_t run() const { return columns * lanes; }
  bool dense() const { return (lanes == 1 || lane == 1) && (columns == 1 || column == lanes); }
};

struct Planes {
  int64_t count, inner;  // planes, of which so many along the second outer axis
  Plane x, y;
};

inline Plane plane_of(const Operand& a, int lanes) {
  const bool batch = lanes == 0, channel = lanes == 1;
  return {a.floats(),
          {batch ? 0 : a.stride[0], channel ? 0 : a.stride[1]},
          a.stride[2],
          a.stride[3],
          lanes < 0 ? 0 : a.stride[lanes],
          a.shape[2],
          a.shape[3],
          lanes < 0 ? 1 : a.shape[lanes]};
}

inline Planes planes_of(const Operand& x, const Operand& y) {
  const auto innermost = [&](int a) { return y.shape[a] > 1 && y.stride[a] == 1; };
  const int lanes = innermost(0) ? 0 : innermost(1) ? 1 : -1;
  const int64_t images = lanes == 0 ? 1 : y.shape[0], channels = lanes == 1 ? 1 : y.shape[1];
  return {images * channels, channels, plane_of(x, lanes), plane_of(y, lanes)};
}

// The numbers of a line of p side by side, in `held` unless they lie so.
inline const float* line_beside(const float* line, const Plane& p, float* held) {
  if (p.dense()) return line;
  for (int64_t w = 0; w < p.columns; w++)
    for (int64_t l = 0; l < p.lanes; l++) held[w * p.lanes + l] = line[w * p.column + l * p.lane];
  return held;
}

inline void put_line(const float* held, const Plane& p, float* line) {
  if (held == line) return;
  for (int64_t w = 0; w < p.columns; w++)
    for (int64_t l = 0; l < p.lanes; l++) line[w * p.column + l * p.lane] = held[w * p.lanes + l];
}

// y = the larger, or the sum, of y and x. NaN stays.
template <bool maximum>
SPARSETRAIN_LOOP void combine(float* y, const float* x, int64_t n) {
  SPARSETRAIN_IN_PLACE
  for (int64_t i = 0; i < n; i++) {
    const float a = y[i], b = x[i], sum = a + b;
    y[i] = maximum ? ((b > a) | (b != b) ? b : a) : sum;
  }
}

inline void require_images(const Operand& x, const Operand& y, const char* what) {
  require(x.rank == 4 && y.rank == 4 && x.dtype == DType::kFloat && y.dtype == DType::kFloat, what);
  require(x.shape[0] == y.shape[0] && x.shape[1] == y.shape[1], what);
}

}  // namespace sparsetrain::engine
