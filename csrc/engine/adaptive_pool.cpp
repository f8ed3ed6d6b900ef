// adaptive_pool: the maximum or mean of each of H' x W' windows that cover an image.
//
//   in   x [N, C, H, W] fp32;  out  y [N, C, H', W']
//   attributes: kind (0 maximum, 1 average)
//
// Window i of n has the inputs from floor(i H / n) to ceil((i + 1) H / n). The rows of a window are
// combined along whole lines, then their columns.
#include "operations.h"
#include "planes.h"

namespace sparsetrain::engine {
namespace {

int64_t begin_of(int64_t i, int64_t size, int64_t windows) { return i * size / windows; }
int64_t end_of(int64_t i, int64_t size, int64_t windows) {
  return ((i + 1) * size + windows - 1) / windows;
}

template <bool maximum>
void combine_lines(const Plane& x, const float* plane, int64_t begin, int64_t end, float* to,
                   float* held) {
  std::copy_n(line_beside(plane + begin * x.row, x, held), x.run(), to);
  for (int64_t row = begin + 1; row < end; row++)
    simd<combine<maximum>>(to, line_beside(plane + row * x.row, x, held), x.run());
}

template <bool maximum>
SPARSETRAIN_LOOP void combine_columns(const float* x, int64_t count, int64_t lanes, float* y) {
  for (int64_t l = 0; l < lanes; l++) y[l] = x[l];
  for (int64_t k = 1; k < count; k++) combine<maximum>(y, x + k * lanes, lanes);
}

template <bool maximum>
void make_line(const Plane& x, const Plane& y, const float* plane, int64_t row, float* to,
               float* combined) {
  const int64_t top = begin_of(row, x.rows, y.rows), bottom = end_of(row, x.rows, y.rows);
  combine_lines<maximum>(x, plane, top, bottom, combined, combined + x.run());
  for (int64_t j = 0; j < y.columns; j++) {
    const int64_t left = begin_of(j, x.columns, y.columns), right = end_of(j, x.columns, y.columns);
    float* at = to + j * y.lanes;
    simd<combine_columns<maximum>>(static_cast<const float*>(combined) + left * y.lanes,
                                   right - left, y.lanes, at);
    const float count = float((bottom - top) * (right - left));
    for (int64_t l = 0; l < y.lanes && !maximum; l++) at[l] /= count;
  }
}

void check(const Call& call) {
  require_counts(call, 1, 1, "adaptive_pool: one input, one output and one attribute are needed");
  require_images(call.in[0], call.out[0], "adaptive_pool: x and y must be fp32 [N, C, H, W]");
  const int64_t kind = call.attributes.whole(0);
  require(kind == 0 || kind == 1, "adaptive_pool: kind must be 0 or 1");
  require(call.in[0].shape[2] >= 1 && call.in[0].shape[3] >= 1,
          "adaptive_pool: images must not be empty");
}

int64_t scratch(const Call& call, int threads) {
  if (call.out[0].count() == 0) return 0;
  const Planes planes = planes_of(call.in[0], call.out[0]);
  return threads * (2 * planes.x.run() + planes.y.run());
}

void run(const Call& call, Threads& threads) {
  if (call.out[0].count() == 0) return;
  const Planes planes = planes_of(call.in[0], call.out[0]);
  const Plane &x = planes.x, &y = planes.y;
  const auto make = call.attributes.whole(0) ? make_line<false> : make_line<true>;
  shares(threads, planes.count * y.rows, call.in[0].count(),
         [&](int64_t share, int64_t begin, int64_t end) {
           float* made = call.scratch + share * (2 * x.run() + y.run());
           for (int64_t i = begin; i < end; i++) {
             float* line = y.line(i / y.rows, planes.inner, i % y.rows);
             float* to = y.dense() ? line : made;
             make(x, y, x.line(i / y.rows, planes.inner, 0), i % y.rows, to, made + y.run());
             put_line(to, y, line);
           }
         });
}

}  // namespace

const Operation kAdaptivePool{"adaptive_pool", check, run, scratch};

}  // namespace sparsetrain::engine
