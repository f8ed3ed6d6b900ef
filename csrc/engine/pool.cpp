// pool: the maximum or mean of windows of images.
//
//   in   x [N, C, H, W] fp32;  out  y [N, C, H', W']
//   attributes: kind (0 maximum, 1 average), kernel, stride, padding, dilation (rows and columns of
//   each), whether padding counts in a mean, what a sum is divided by instead (0: the count)
//
// A line of y is made in three steps, each along whole lines: the rows of the window are combined;
// their columns go to lines of every stride-th one, with what stands outside around them; and these
// are combined, column by column of the window. Taps outside the image are not read.
#include <limits>

#include "operations.h"
#include "planes.h"

namespace sparsetrain::engine {
namespace {

constexpr int64_t kMostTaps = 1 << 16;

// Windows along one axis.
struct Axis {
  int64_t size, kernel, stride, padding, dilation;

  int64_t tap(int64_t i, int64_t k) const { return i * stride + k * dilation - padding; }
  // Taps of window i below `end`, from `begin` on.
  int64_t taps(int64_t i, int64_t begin, int64_t end) const {
    int64_t count = 0;
    for (int64_t k = 0; k < kernel; k++) count += tap(i, k) >= begin && tap(i, k) < end;
    return count;
  }
  int64_t counted(int64_t i, bool outside) const {
    const int64_t count = outside ? taps(i, -padding, size + padding) : taps(i, 0, size);
    return std::max<int64_t>(1, count);
  }
  // Places of each line of every stride-th column.
  int64_t places(int64_t outputs) const {
    const int64_t last = std::max(padding + size, tap(outputs - 1, kernel - 1) + padding + 1);
    return (last + stride - 1) / stride;
  }
};

struct Pool {
  bool maximum, outside;
  int64_t divisor;
  Axis rows, columns;

  explicit Pool(const Call& call) {
    const Attributes& a = call.attributes;
    const Operand& x = call.in[0];
    maximum = a.whole(0) == 0, outside = a.whole(9), divisor = a.whole(10);
    rows = {x.shape[2], a.whole(1), a.whole(3), a.whole(5), a.whole(7)};
    columns = {x.shape[3], a.whole(2), a.whole(4), a.whole(6), a.whole(8)};
  }

  float none() const { return maximum ? -std::numeric_limits<float>::infinity() : 0; }
};

// Memory of one thread.
struct Lines {
  int64_t place, run;  // numbers of a line of every stride-th column, and of y's
  float *combined, *held, *strided, *length, *made;

  Lines(const Pool& p, const Planes& planes, float* from)
      : place(p.columns.places(planes.y.columns) * planes.y.lanes),
        run(planes.y.run()),
        combined(from),
        held(combined + planes.x.run()),
        strided(held + planes.x.run()),
        length(strided + place * p.columns.stride),
        made(length + run) {}
  static int64_t numbers(const Pool& p, const Planes& planes) {
    const int64_t places = p.columns.places(planes.y.columns) * p.columns.stride;
    return 2 * planes.x.run() + 2 * planes.y.run() + places * planes.y.lanes;
  }
};

void combine_rows(const Pool& p, const Plane& x, const float* plane, int64_t i, const Lines& to) {
  bool first = true;
  for (int64_t k = 0; k < p.rows.kernel; k++) {
    const int64_t row = p.rows.tap(i, k), n = x.run();
    if (row < 0 || row >= x.rows) continue;
    const float* line = line_beside(plane + row * x.row, x, to.held);
    if (first)
      std::copy_n(line, n, to.combined);
    else if (p.maximum)
      simd<combine<true>>(to.combined, line, n);
    else
      simd<combine<false>>(to.combined, line, n);
    first = false;
  }
  if (first) std::fill_n(to.combined, x.run(), p.none());
}

template <int L>
SPARSETRAIN_LOOP void to_places(const float* x, const Axis& axis, int64_t lanes, float* y,
                                int64_t place) {
  const int64_t width = L ? L : lanes;
  for (int64_t phase = 0; phase < axis.stride; phase++) {
    const int64_t before = axis.padding - phase;
    const int64_t first = before > 0 ? (before + axis.stride - 1) / axis.stride : 0;
    float* to = y + phase * place + first * width;
    for (int64_t q = first * axis.stride - before; q < axis.size; q += axis.stride, to += width)
      for (int64_t l = 0; l < width; l++) to[l] = x[q * width + l];
  }
}

void spread_columns(const Pool& p, const Lines& lines, int64_t lanes) {
  if (lanes == 1) return to_places<1>(lines.combined, p.columns, 1, lines.strided, lines.place);
  to_places<0>(lines.combined, p.columns, lanes, lines.strided, lines.place);
}

void combine_columns(const Pool& p, const Lines& lines, int64_t lanes, float* y) {
  for (int64_t k = 0; k < p.columns.kernel; k++) {
    const int64_t at = k * p.columns.dilation, s = p.columns.stride;
    const float* x = lines.strided + at % s * lines.place + at / s * lanes;
    if (k == 0)
      std::copy_n(x, lines.run, y);
    else if (p.maximum)
      simd<combine<true>>(y, x, lines.run);
    else
      simd<combine<false>>(y, x, lines.run);
  }
}

SPARSETRAIN_LOOP void divide(float* y, const float* length, float rows, int64_t n) {
  for (int64_t i = 0; i < n; i++) y[i] = y[i] / (length[i] * rows);
}

void divide_line(const Pool& p, const Lines& lines, int64_t row, float* y) {
  if (p.maximum) return;
  const float rows = p.divisor ? float(p.divisor) : float(p.rows.counted(row, p.outside));
  simd<divide>(y, static_cast<const float*>(lines.length), rows, lines.run);
}

void prepare_lines(const Pool& p, const Planes& planes, const Lines& lines) {
  std::fill_n(lines.strided, lines.place * p.columns.stride, p.none());
  const int64_t lanes = planes.y.lanes;
  for (int64_t j = 0; j < planes.y.columns; j++)
    std::fill_n(lines.length + j * lanes, lanes,
                p.divisor ? 1.0f : float(p.columns.counted(j, p.outside)));
}

void check_axis(const Axis& axis, int64_t outputs) {
  for (int64_t n : {axis.kernel, axis.stride, axis.dilation})
    require(n >= 1 && n < kMostTaps, "pool: kernel, stride or dilation is out of range");
  require(axis.padding >= 0 && axis.padding < kMostTaps, "pool: the padding is out of range");
  require(axis.size >= 1, "pool: images must not be empty");
  require((outputs - 1) * axis.stride < axis.size + axis.padding,
          "pool: a window begins outside the image and its padding");
}

void check(const Call& call) {
  require_counts(call, 1, 11, "pool: one input, one output and 11 attributes are needed");
  require_images(call.in[0], call.out[0], "pool: x and y must be fp32 [N, C, H, W]");
  for (int i : {0, 9})
    require(call.attributes.whole(i) == 0 || call.attributes.whole(i) == 1,
            "pool: kind and counting must be 0 or 1");
  require(call.attributes.whole(10) >= INT32_MIN && call.attributes.whole(10) <= INT32_MAX,
          "pool: the divisor is out of range");
  const Pool p(call);
  check_axis(p.rows, call.out[0].shape[2]);
  check_axis(p.columns, call.out[0].shape[3]);
}

int64_t scratch(const Call& call, int threads) {
  if (call.out[0].count() == 0) return 0;
  return threads * Lines::numbers(Pool(call), planes_of(call.in[0], call.out[0]));
}

void run(const Call& call, Threads& threads) {
  if (call.out[0].count() == 0) return;
  const Pool p(call);
  const Planes planes = planes_of(call.in[0], call.out[0]);
  const Plane &x = planes.x, &y = planes.y;
  const int64_t numbers = Lines::numbers(p, planes);
  shares(threads, planes.count * y.rows, call.in[0].count(),
         [&](int64_t share, int64_t begin, int64_t end) {
           const Lines lines(p, planes, call.scratch + share * numbers);
           prepare_lines(p, planes, lines);
           for (int64_t i = begin; i < end; i++) {
             const int64_t plane = i / y.rows, row = i % y.rows;
             combine_rows(p, x, x.line(plane, planes.inner, 0), row, lines);
             spread_columns(p, lines, y.lanes);
             float* line = y.line(plane, planes.inner, row);
             float* to = y.dense() ? line : lines.made;
             combine_columns(p, lines, y.lanes, to);
             divide_line(p, lines, row, to);
             put_line(to, y, line);
           }
         });
}

}  // namespace

const Operation kPool{"pool", check, run, scratch};

}  // namespace sparsetrain::engine
