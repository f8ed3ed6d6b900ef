#include "norms.h"

#include <cmath>

#include "sums.h"

namespace sparsetrain::engine {
namespace {

constexpr int kParts = 16;

// A way to go over the numbers of a group: of lanes side by side, or along runs, where the totals
// are parts of one.
struct Numbers {
  const float* x;
  int64_t step, n, lanes;
};

// L lanes in registers.
template <bool squares, int L>
SPARSETRAIN_LOOP void add_some(double* total, Numbers at, const double* mean) {
  double part[L], less[L];
  for (int l = 0; l < L; l++) part[l] = total[l], less[l] = mean[l];
  for (int64_t i = 0; i < at.n; i++, at.x += at.step)
    for (int l = 0; l < L; l++) {
      const double centred = double(at.x[l]) - less[l];
      part[l] += squares ? centred * centred : centred;
    }
  for (int l = 0; l < L; l++) total[l] = part[l];
}

template <bool squares>
SPARSETRAIN_LOOP void add_lanes(double* total, Numbers at, const double* mean) {
  int64_t l = 0;
  const auto from = [&](int64_t l) { return Numbers{at.x + l, at.step, at.n, at.lanes}; };
  for (; l + 16 <= at.lanes; l += 16) add_some<squares, 16>(total + l, from(l), mean + l);
  for (; l + 4 <= at.lanes; l += 4) add_some<squares, 4>(total + l, from(l), mean + l);
  for (; l < at.lanes; l++) add_some<squares, 1>(total + l, from(l), mean + l);
}

template <bool squares>
SPARSETRAIN_LOOP void add_run(double* total, Numbers at, const double* mean) {
  const double less = *mean;
  double part[kParts] = {};
  const int64_t whole = at.step == 1 ? at.n / kParts * kParts : 0;
  for (int64_t i = 0; i < whole; i += kParts)
    for (int k = 0; k < kParts; k++) {
      const double centred = double(at.x[i + k]) - less;
      part[k] += squares ? centred * centred : centred;
    }
  for (int64_t i = whole; i < at.n; i++) {
    const double centred = double(at.x[i * at.step]) - less;
    part[0] += squares ? centred * centred : centred;
  }
  for (int k = 0; k < kParts; k++) *total += part[k];
}

// n times y = (x - mean) * scale * weight + bias along lanes, each with a mean and scale of its
// own.
struct Lanes {
  const float *mean, *scale, *weight, *bias;
  int64_t x_step, weight_step, bias_step, y_step, n, lanes;
};
template <int L>
SPARSETRAIN_LOOP void norm_lanes(float* y, const float* x, Lanes at) {
  const int64_t lanes = L ? L : at.lanes;
  for (int64_t i = 0; i < at.n; i++, x += at.x_step, y += at.y_step) {
    const float weight = at.weight[i * at.weight_step], bias = at.bias[i * at.bias_step];
    SPARSETRAIN_IN_PLACE
    for (int64_t l = 0; l < lanes; l++) y[l] = (x[l] - at.mean[l]) * at.scale[l] * weight + bias;
  }
}

// The same along a run with one mean and scale. Steps of Step numbers, or of any.
struct Run {
  float mean, scale;
  const float *weight, *bias;
  int64_t x_step, weight_step, bias_step, y_step, n;
};
template <bool dense, int step>
SPARSETRAIN_LOOP void norm_run(float* y, const float* x, Run at) {
  const int64_t x_step = dense ? 1 : at.x_step, y_step = dense ? 1 : at.y_step;
  const int64_t weight_step = dense ? step : at.weight_step;
  const int64_t bias_step = dense ? step : at.bias_step;
  SPARSETRAIN_IN_PLACE
  for (int64_t i = 0; i < at.n; i++)
    y[i * y_step] =
        (x[i * x_step] - at.mean) * at.scale * at.weight[i * weight_step] + at.bias[i * bias_step];
}

using Rows4 = Rows<4>;

struct Group {
  double mean[kLanes] = {}, square[kLanes] = {};
  float less[kLanes], scale[kLanes];
};

void sum_group(const Norm& norm, const Rows4& rows, const int64_t* begin, int64_t lanes,
               Group& group) {
  const double count = double(rows.summed.count());
  const bool beside = rows.beside();
  double zero[kLanes] = {};
  const auto numbers = [&](const int64_t* at, int64_t n) {
    return Numbers{norm.x.floats() + at[0], rows.summed.step(0), n, lanes};
  };
  const auto sum = [&](const int64_t* at, int64_t n) {
    if (beside)
      simd<add_lanes<false>>(group.mean, numbers(at, n), static_cast<const double*>(zero));
    else
      simd<add_run<false>>(group.mean, numbers(at, n), static_cast<const double*>(zero));
  };
  if (norm.centred) each_summed(rows, begin, sum);
  for (int64_t l = 0; l < lanes; l++) group.mean[l] /= count;
  each_summed(rows, begin, [&](const int64_t* at, int64_t n) {
    const double* mean = group.mean;
    if (beside)
      simd<add_lanes<true>>(group.square, numbers(at, n), mean);
    else
      simd<add_run<true>>(group.square, numbers(at, n), mean);
  });
  for (int64_t l = 0; l < lanes; l++) {
    group.less[l] = float(group.mean[l]);
    group.scale[l] = float(1 / std::sqrt(group.square[l] / count + norm.eps));
  }
}

// Where lanes have weights of their own, or lie apart in y.
void write_apart(const Norm& norm, const Rows4& rows, const int64_t* at, int64_t n, int64_t lanes,
                 const Group& group) {
  const Loops<4>&s = rows.summed, &kept = rows.kept;
  for (int64_t i = 0; i < n; i++)
    for (int64_t l = 0; l < lanes; l++) {
      const auto place = [&](int k) { return at[k] + i * s.step(k) + l * kept.step(k); };
      const float z = (norm.x.floats()[place(0)] - group.less[l]) * group.scale[l];
      norm.y.floats()[place(3)] = z * norm.weight.floats()[place(1)] + norm.bias.floats()[place(2)];
    }
}

void write_lanes(const Norm& norm, const Rows4& rows, const int64_t* at, int64_t n, int64_t lanes,
                 const Group& group) {
  const Loops<4>&s = rows.summed, &kept = rows.kept;
  if (kept.step(3) != 1 || kept.step(1) || kept.step(2))
    return write_apart(norm, rows, at, n, lanes, group);
  const Lanes all{group.less,
                  group.scale,
                  norm.weight.floats() + at[1],
                  norm.bias.floats() + at[2],
                  s.step(0),
                  s.step(1),
                  s.step(2),
                  s.step(3),
                  n,
                  lanes};
  float* y = norm.y.floats() + at[3];
  const float* x = norm.x.floats() + at[0];
  if (lanes == kLanes) return simd<norm_lanes<kLanes>>(y, x, all);
  if (lanes == 8) return simd<norm_lanes<8>>(y, x, all);
  simd<norm_lanes<0>>(y, x, all);
}

void write_run(const Norm& norm, const Rows4& rows, const int64_t* at, int64_t n,
               const Group& group) {
  const Loops<4>& s = rows.summed;
  const Run run{group.less[0],
                group.scale[0],
                norm.weight.floats() + at[1],
                norm.bias.floats() + at[2],
                s.step(0),
                s.step(1),
                s.step(2),
                s.step(3),
                n};
  const bool dense = s.step(0) == 1 && s.step(3) == 1 && s.step(1) == s.step(2);
  float* y = norm.y.floats() + at[3];
  const float* x = norm.x.floats() + at[0];
  if (dense && s.step(1) == 1) return simd<norm_run<true, 1>>(y, x, run);
  if (dense && s.step(1) == 0) return simd<norm_run<true, 0>>(y, x, run);
  simd<norm_run<false, 1>>(y, x, run);
}

}  // namespace

void normalise(const Norm& norm, Threads& threads) {
  const Rows4 rows({&norm.x, &norm.weight, &norm.bias, &norm.y},
                   [&](int a) { return norm.summed[a]; });
  each_group(rows, threads, [&](const int64_t* begin, int64_t lanes, int64_t) {
    Group group;
    sum_group(norm, rows, begin, lanes, group);
    each_summed(rows, begin, [&](const int64_t* at, int64_t n) {
      if (rows.beside())
        write_lanes(norm, rows, at, n, lanes, group);
      else
        write_run(norm, rows, at, n, group);
    });
  });
}

}  // namespace sparsetrain::engine
