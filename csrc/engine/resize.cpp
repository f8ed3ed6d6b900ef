// resize: images at another size, as torch.nn.functional.interpolate.
//
//   in   x [N, C, H, W] fp32;  out  y [N, C, H', W']
//   attributes: mode (0 nearest, 1 bilinear, 2 bicubic), whether corners are aligned, source pixels
//   a pixel of rows and of columns, real numbers (0: by the sizes)
//
// Each row and column of y is a sum of up to four of x. Rows are summed along whole lines.
#include <cmath>

#include "operations.h"
#include "planes.h"

namespace sparsetrain::engine {
namespace {

enum Mode : int64_t { kNearest, kBilinear, kBicubic };

constexpr int kMostTaps = 4;

struct Taps {
  int32_t count;
  int32_t at[kMostTaps];
  float weight[kMostTaps];
};
constexpr int64_t kTapsNumbers = sizeof(Taps) / sizeof(float);

struct Axis {
  Mode mode;
  bool corners;
  float scale;
  int64_t from, to;

  float source(int64_t i) const {
    if (corners) return float(i) * scale;
    const float at = (float(i) + 0.5f) * scale - 0.5f;
    return mode == kBilinear && at < 0 ? 0 : at;
  }
};

Axis axis_of(const Call& call, int axis) {
  const Attributes& a = call.attributes;
  const int64_t from = call.in[0].shape[axis], to = call.out[0].shape[axis];
  const bool corners = a.whole(1) && a.whole(0) != kNearest;
  const float given = float(a.real(axis));
  float scale = given > 0 ? given : float(from) / float(to);
  if (corners) scale = to > 1 ? float(from - 1) / float(to - 1) : 0;
  return {Mode(a.whole(0)), corners, scale, from, to};
}

// The weights of Keys' convolution with a = -0.75, of a place t behind the second of four.
void cubic(float t, float (&weight)[kMostTaps]) {
  constexpr float a = -0.75f;
  const auto near = [](float x) { return ((a + 2) * x - (a + 3)) * x * x + 1; };
  const auto far = [](float x) { return ((a * x - 5 * a) * x + 8 * a) * x - 4 * a; };
  weight[0] = far(t + 1), weight[1] = near(t), weight[2] = near(1 - t), weight[3] = far(2 - t);
}

int32_t inside(const Axis& axis, float at) {
  return int32_t(std::max(0.0f, std::min(at, float(axis.from - 1))));
}

Taps taps_of(const Axis& axis, int64_t i) {
  if (axis.mode == kNearest) return {1, {inside(axis, std::floor(float(i) * axis.scale))}, {1}};
  const float at = axis.source(i), below = std::floor(at), t = at - below;
  if (axis.mode == kBilinear) {
    const int32_t first = inside(axis, below), second = inside(axis, below + 1);
    return {2, {first, second}, {1 - t, t}};
  }
  Taps taps{4, {}, {}};
  for (int k = 0; k < kMostTaps; k++) taps.at[k] = inside(axis, below + float(k - 1));
  cubic(t, taps.weight);
  return taps;
}

SPARSETRAIN_LOOP void scaled(float* y, const float* x, float weight, int64_t n) {
  for (int64_t i = 0; i < n; i++) y[i] = x[i] * weight;
}
SPARSETRAIN_LOOP void add_scaled(float* y, const float* x, float weight, int64_t n) {
  SPARSETRAIN_IN_PLACE
  for (int64_t i = 0; i < n; i++) y[i] = y[i] + x[i] * weight;
}

void sum_rows(const Plane& x, const float* plane, const Taps& taps, float* to, float* held) {
  for (int k = 0; k < taps.count; k++) {
    const float* line = line_beside(plane + taps.at[k] * x.row, x, held);
    if (k == 0)
      simd<scaled>(to, line, taps.weight[k], x.run());
    else
      simd<add_scaled>(to, line, taps.weight[k], x.run());
  }
}

template <int count>
SPARSETRAIN_LOOP void sum_columns(const float* x, const Taps* taps, int64_t columns, int64_t lanes,
                                  float* y) {
  for (int64_t j = 0; j < columns; j++, y += lanes) {
    const Taps& t = taps[j];
    for (int64_t l = 0; l < lanes; l++) {
      float sum = x[t.at[0] * lanes + l] * t.weight[0];
      for (int k = 1; k < count; k++) sum += x[t.at[k] * lanes + l] * t.weight[k];
      y[l] = sum;
    }
  }
}

// Memory of one thread.
struct Lines {
  float *summed, *held, *made;
  Taps* taps;

  Lines(const Planes& planes, float* from)
      : summed(from),
        held(summed + planes.x.run()),
        made(held + planes.x.run()),
        taps(reinterpret_cast<Taps*>(made + planes.y.run())) {}
  static int64_t numbers(const Planes& planes) {
    return 2 * planes.x.run() + planes.y.run() + planes.y.columns * kTapsNumbers;
  }
};

void make_line(const Planes& planes, const float* plane, const Taps& rows, const Lines& lines,
               float* to) {
  const int64_t columns = planes.y.columns, lanes = planes.y.lanes;
  const float* x = lines.summed;
  const Taps* taps = lines.taps;
  sum_rows(planes.x, plane, rows, lines.summed, lines.held);
  if (rows.count == 1) return simd<sum_columns<1>>(x, taps, columns, lanes, to);
  if (rows.count == 2) return simd<sum_columns<2>>(x, taps, columns, lanes, to);
  simd<sum_columns<4>>(x, taps, columns, lanes, to);
}

void check(const Call& call) {
  require_counts(call, 1, 4, "resize: one input, one output and four attributes are needed");
  require_images(call.in[0], call.out[0], "resize: x and y must be fp32 [N, C, H, W]");
  const Attributes& a = call.attributes;
  require(a.whole(0) >= kNearest && a.whole(0) <= kBicubic, "resize: mode must be 0, 1 or 2");
  require(a.whole(1) == 0 || a.whole(1) == 1, "resize: align_corners must be 0 or 1");
  for (int i : {2, 3}) {
    require(a.real(i) >= 0 && a.real(i) < 1e9, "resize: a scale is out of range");
    require(call.in[0].shape[i] >= 1 && call.in[0].shape[i] <= INT32_MAX,
            "resize: images must not be empty");
  }
}

int64_t scratch(const Call& call, int threads) {
  if (call.out[0].count() == 0) return 0;
  return threads * Lines::numbers(planes_of(call.in[0], call.out[0]));
}

void run(const Call& call, Threads& threads) {
  if (call.out[0].count() == 0) return;
  const Axis rows = axis_of(call, 2), columns = axis_of(call, 3);
  const Planes planes = planes_of(call.in[0], call.out[0]);
  const Plane &x = planes.x, &y = planes.y;
  shares(threads, planes.count * y.rows, call.out[0].count(),
         [&](int64_t share, int64_t begin, int64_t end) {
           const Lines lines(planes, call.scratch + share * Lines::numbers(planes));
           for (int64_t j = 0; j < y.columns; j++) lines.taps[j] = taps_of(columns, j);
           for (int64_t i = begin; i < end; i++) {
             float* line = y.line(i / y.rows, planes.inner, i % y.rows);
             float* to = y.dense() ? line : lines.made;
             const float* plane = x.line(i / y.rows, planes.inner, 0);
             make_line(planes, plane, taps_of(rows, i % y.rows), lines, to);
             put_line(to, y, line);
           }
         });
}

}  // namespace

const Operation kResize{"resize", check, run, scratch};

}  // namespace sparsetrain::engine
