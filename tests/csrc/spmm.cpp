// spmm.h, spmv.h and sddmm.h, sort_entries.h and halo.h against plain loops, without PyTorch: what
// `make sanitize` builds and runs.
#include "../../csrc/spmm.h"

#include <cmath>
#include <functional>

#include "../../csrc/halo.h"
#include "../../csrc/sddmm.h"
#include "../../csrc/sort_entries.h"
#include "../../csrc/spmv.h"
#include "exact.h"

namespace sparsetrain {
namespace {

void require(bool right, const char* op, const SpmmShape& s, int64_t v) {
  if (right) return;
  std::printf("%s: wrong at v=%ld, %ld lines of %ld, %ld channels, %ld segments\n", op, long(v),
              long(s.lines), long(s.run), long(s.channels), long(s.segments));
  std::exit(1);
}

constexpr int kThreads = 2;

// A sparse product whose entries reach from the first number of x to the last.
template <typename T>
struct Product {
  Product(int64_t v, int64_t lines, int64_t run, int64_t channels, int64_t segments, int64_t most)
      : v(v),
        shape(shape_of(v, lines, run, channels, segments)),
        start(segments * shape.groups + 1),
        offset(counted(most)),
        x(numbers<T>(shape.blocks * shape.x_block)),
        value(numbers<float>(offset.n * v)) {
    const int64_t last = shape.x_block - (lines - 1) * shape.x_line - run;
    for (int64_t k = 0; k < offset.n; k++)
      offset[k] = int32_t(k == 0 ? last : k == 1 ? 0 : below(last + 1));
  }

  // Three blocks, lines of x three numbers longer than those of y, two channels of x.
  static SpmmShape shape_of(int64_t v, int64_t lines, int64_t run, int64_t channels,
                            int64_t segments) {
    const int64_t plane = lines * run, x_line = run + 3;
    return {3,   lines, run,      2 * (lines + 1) * x_line, x_line,  channels * plane,
            run, plane, channels, (channels + v - 1) / v,   segments};
  }

  int64_t counted(int64_t most) {
    start[0] = 0;
    for (int64_t i = 1; i < start.n; i++) start[i] = start[i - 1] + int32_t(below(most + 1));
    return start[start.n - 1];
  }

  // visit(entry, channel of y, which of v) for all live values.
  void each(const std::function<void(int64_t, int64_t, int64_t)>& visit) const {
    for (int64_t i = 0; i + 1 < start.n; i++)
      for (int64_t k = start[i]; k < start[i + 1]; k++)
        for (int64_t j = 0; j < v; j++) {
          const int64_t channel = i % shape.groups * v + j;
          if (channel < shape.channels) visit(k, channel, j);
        }
  }

  // visit(where in x, after an offset, where in y, before a channel) for all outputs.
  void inside(const std::function<void(int64_t, int64_t)>& visit) const {
    for (int64_t b = 0; b < shape.blocks; b++)
      for (int64_t r = 0; r < shape.lines; r++)
        for (int64_t i = 0; i < shape.run; i++)
          visit(b * shape.x_block + r * shape.x_line + i, b * shape.y_block + r * shape.y_line + i);
  }

  int64_t v;
  SpmmShape shape;
  Exact<int32_t> start, offset;
  Exact<T> x;
  Exact<float> value;
};

// Of one rounding to T.
template <typename T>
double rounding(double of) {
  return std::is_same_v<T, float> ? 0 : std::abs(of) / 256;
}

template <typename T>
void test_spmm(const Product<T>& p, bool after) {
  const SpmmShape& s = p.shape;
  const Exact<float> bias = numbers<float>(s.channels);
  const Exact<T> residual = numbers<T>(s.blocks * s.y_block);
  Exact<T> y(residual.n);
  std::fill_n(y.data, y.n, NAN);
  std::vector<double> wanted(y.n), size(y.n);
  p.inside([&](int64_t at, int64_t to) {
    for (int64_t c = 0; c < s.channels; c++) wanted[to + c * s.y_channel] = after ? bias[c] : 0;
    p.each([&](int64_t k, int64_t channel, int64_t j) {
      const double term = double(p.value[k * p.v + j]) * float(p.x[at + p.offset[k]]);
      wanted[to + channel * s.y_channel] += term;
      size[to + channel * s.y_channel] += std::abs(term);
    });
  });
  const SpmmJob<T> job{
      s,
      {p.start.data, p.offset.data, p.value.data},
      {y.data, after ? bias.data : nullptr, after ? residual.data : nullptr, after},
      p.x.data};
  spmm(job, int(p.v), kThreads, TwoThreads());
  for (int64_t i = 0; i < y.n; i++) {
    const double exact = after ? std::max(0.0, wanted[i] + float(residual[i])) : wanted[i];
    require(std::abs(y[i] - exact) <= 1e-6 * (2 + size[i]) + rounding<T>(exact), "spmm", s, p.v);
  }
}

template <typename T>
void test_sddmm(const Product<T>& p) {
  const SpmmShape& s = p.shape;
  const Exact<T> dy = numbers<T>(s.blocks * s.y_block);
  Exact<float> dvalue(p.value.n);
  std::fill_n(dvalue.data, dvalue.n, 0.0f);
  std::vector<double> wanted(dvalue.n), size(dvalue.n);
  p.inside([&](int64_t at, int64_t from) {
    p.each([&](int64_t k, int64_t channel, int64_t j) {
      const double term = double(dy[from + channel * s.y_channel]) * float(p.x[at + p.offset[k]]);
      wanted[k * p.v + j] += term;
      size[k * p.v + j] += std::abs(term);
    });
  });
  const SddmmJob<T> job{s, p.start.data, p.offset.data, p.x.data, dy.data, dvalue.data};
  sddmm(job, int(p.v), kThreads, TwoThreads());
  for (int64_t i = 0; i < dvalue.n; i++)
    require(std::abs(dvalue[i] - wanted[i]) <= 1e-6 * (1 + size[i]), "sddmm", s, p.v);
}

void test_spmv(int64_t v, int64_t rows, int64_t channels, int64_t segments, int64_t most) {
  const int64_t inputs = 9, groups = (channels + v - 1) / v;
  Exact<int32_t> start(segments * groups + 1);
  start[0] = 0;
  for (int64_t i = 1; i < start.n; i++) start[i] = start[i - 1] + int32_t(below(most + 1));
  Exact<int32_t> offset(start[start.n - 1]);
  for (int64_t k = 0; k < offset.n; k++) offset[k] = int32_t(below(inputs));
  const Exact<float> value = numbers<float>(offset.n * v), x = numbers<float>(rows * inputs);
  const Exact<float> bias = numbers<float>(channels);
  Exact<float> y(rows * channels);
  std::fill_n(y.data, y.n, NAN);
  spmv({rows, inputs, channels, groups, segments, start.data, offset.data, value.data, bias.data,
        x.data, y.data},
       int(v), [](int64_t n, int64_t, const auto& work) { TwoThreads()(n, work); });
  for (int64_t i = 0; i < y.n; i++) {
    const int64_t channel = i % channels;
    double wanted = bias[channel], size = 1;
    for (int64_t g = channel / v; g < segments * groups; g += groups)
      for (int64_t k = start[g]; k < start[g + 1]; k++) {
        const double term =
            double(value[k * v + channel % v]) * x[i / channels * inputs + offset[k]];
        wanted += term, size += std::abs(term);
      }
    require(std::abs(y[i] - wanted) <= 1e-6 * size, "spmv", {0, rows, most}, v);
  }
}

template <typename T>
void test_products(int64_t v) {
  for (int64_t run : {1, 7, 63, 65, 150})
    for (int64_t lines : {1, 2, 3, 5, 8})
      for (int64_t channels : {int64_t(1), 2 * v + v / 2 + 1})
        for (int64_t segments : {1, 3}) {
          const Product<T> p(v, lines, run, channels, segments, 6);
          for (bool after : {false, true}) test_spmm(p, after);
          test_sddmm(p);
        }
  for (int64_t most : {0, 1, 40}) {
    const Product<T> p(v, 3, 21, 3 * v - 1, 2, most);
    test_spmm(p, true);
    test_sddmm(p);
  }
}

void test_zero_halo(int64_t rows, int64_t columns, int64_t lanes, int64_t above, int64_t beside) {
  Exact<float> plane(rows * columns * lanes);
  std::fill_n(plane.data, plane.n, 1.0f);
  zero_halo(plane.data, rows, columns, lanes, above, beside);
  for (int64_t i = 0; i < plane.n; i++) {
    const int64_t r = i / (columns * lanes), c = i / lanes % columns;
    const bool in = r >= above && r < rows - above && c >= beside && c < columns - beside;
    require(plane[i] == float(in), "zero_halo", {0, rows, columns}, lanes);
  }
}

// Groups are rows, channels are columns.
void test_sort_entries(int64_t rows, int64_t columns, int64_t v, int64_t width) {
  std::vector<int64_t> live;
  for (int64_t i = 0; i < (rows + v - 1) / v * columns; i++)
    if (below(3) == 0) live.push_back(i);
  Exact<int64_t> index(int64_t(live.size()));
  std::copy(live.begin(), live.end(), index.data);
  Exact<EntryPart> of_rows(rows), of_columns(columns);
  for (int64_t r = 0; r < rows; r++) of_rows[r] = {r, 0, 1000 * r};
  for (int64_t c = 0; c < columns; c++) of_columns[c] = {0, c, c};
  const int64_t segments = (columns + width - 1) / width;
  SortEntries sort({index.data, index.n, v, of_rows.data, rows, of_columns.data, columns, rows,
                    segments, width});
  Exact<int32_t> start(segments * rows + 1), offset(sort.count());
  Exact<int64_t> place(offset.n);
  sort.write(start.data, offset.data, place.data);
  bool right = start[0] == 0 && start[start.n - 1] == offset.n;
  for (int64_t k = 0; k + 1 < start.n; k++)
    for (int64_t e = start[k]; e < start[k + 1]; e++) {
      const int64_t at = index[place[e] / v], row = at / columns * v + place[e] % v;
      right = right && row == k % rows && at % columns / width == k / rows &&
              offset[e] == 1000 * row + at % columns && (e == start[k] || place[e] > place[e - 1]);
    }
  require(right, "sort_entries", {0, rows, columns}, v);
}

}  // namespace
}  // namespace sparsetrain

int main() {
  using namespace sparsetrain;
  for (int64_t v : {1, 4, 8, 16}) {
    test_products<float>(v);
    test_products<BFloat16>(v);
    for (int64_t rows : {1, 3})
      for (int64_t channels : {int64_t(1), 2 * v + v / 2 + 1})
        for (int64_t segments : {1, 3})
          for (int64_t most : {0, 1, 40}) test_spmv(v, rows, channels, segments, most);
    for (int64_t width : {1, 3, 10}) test_sort_entries(4 * v + 1, 10, v, width);
    test_sort_entries(1, 1, v, 1);
  }
  for (int64_t lanes : {1, 5})
    for (int64_t above : {0, 1, 2})
      for (int64_t beside : {0, 1, 2}) test_zero_halo(4, 5, lanes, above, beside);
  std::printf("sparse products: ok\n");
}
