#include "norms.h"

#include <cmath>

#include "../vec.h"
#include "sums.h"

namespace sparsetrain::engine {
namespace {

constexpr int kParts = 16;

// Sums of numbers less what is near their mean, and of their squares, in fp64. The first number of
// a row is near enough: it is in the variance, which is so no smaller than the square of its
// distance to the mean, by the count; the difference that makes the variance loses no more.
struct Sums {
  double less[kLanes] = {}, first[kLanes] = {}, second[kLanes] = {};
};

struct Numbers {
  const float* x;
  int64_t step, n, lanes;
};

constexpr int64_t kAhead = 16, kLine = 16;  // rows; numbers of a line of the cache

// L lanes from l on; loops are apart so that a compiler vectorises them. The machine does not see
// that rows far from each other come next, so they are asked for.
template <int L>
SPARSETRAIN_LOOP void add_some(Sums* sums, Numbers at, int64_t l) {
  double less[L], first[L], second[L];
  for (int k = 0; k < L; k++)
    less[k] = sums->less[l + k], first[k] = sums->first[l + k], second[k] = sums->second[l + k];
  const float* x = at.x + l;
  for (int64_t i = 0; i < at.n; i++, x += at.step) {
    for (int k = 0; k < L; k += kLine) prefetch(x + kAhead * at.step + k);
    double centred[L];
    for (int k = 0; k < L; k++) centred[k] = double(x[k]) - less[k];
    for (int k = 0; k < L; k++) first[k] += centred[k];
    for (int k = 0; k < L; k++) second[k] += centred[k] * centred[k];
  }
  for (int k = 0; k < L; k++) sums->first[l + k] = first[k], sums->second[l + k] = second[k];
}

SPARSETRAIN_LOOP void add_lanes(Sums* sums, Numbers at) {
  int64_t l = 0;
  for (; l + 32 <= at.lanes; l += 32) add_some<32>(sums, at, l);
  for (; l + 8 <= at.lanes; l += 8) add_some<8>(sums, at, l);
  for (; l < at.lanes; l++) add_some<1>(sums, at, l);
}

SPARSETRAIN_LOOP void add_run(Sums* sums, Numbers at) {
  const double less = sums->less[0];
  double first[kParts] = {}, second[kParts] = {};
  const int64_t whole = at.step == 1 ? at.n / kParts * kParts : 0;
  for (int64_t i = 0; i < whole; i += kParts)
    for (int k = 0; k < kParts; k++) {
      const double centred = double(at.x[i + k]) - less;
      first[k] += centred;
      second[k] += centred * centred;
    }
  for (int64_t i = whole; i < at.n; i++) {
    const double centred = double(at.x[i * at.step]) - less;
    first[0] += centred;
    second[0] += centred * centred;
  }
  for (int k = 0; k < kParts; k++) sums->first[0] += first[k], sums->second[0] += second[k];
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
    for (int64_t l = 0; l < lanes; l += kLine) prefetch(y + kAhead * at.y_step + l);
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

// Of each lane, what it is normalised by.
struct Group {
  float less[kLanes], scale[kLanes];
};

void sum_group(const Norm& norm, const Rows4& rows, const int64_t* begin, int64_t lanes,
               Group& group) {
  Sums sums;
  for (int64_t l = 0; l < lanes && norm.centred; l++)
    sums.less[l] = norm.x.floats()[begin[0] + l * rows.kept.step(0)];
  each_summed(rows, begin, [&](const int64_t* at, int64_t n) {
    const Numbers numbers{norm.x.floats() + at[0], rows.summed.step(0), n, lanes};
    if (rows.beside())
      simd<add_lanes>(&sums, numbers);
    else
      simd<add_run>(&sums, numbers);
  });
  const double count = double(rows.summed.count());
  for (int64_t l = 0; l < lanes; l++) {
    const double moved = norm.centred ? sums.first[l] / count : 0;
    const double variance = sums.second[l] / count - moved * moved;
    group.less[l] = float(sums.less[l] + moved);
    group.scale[l] = float(1 / std::sqrt((variance < 0 ? 0 : variance) + norm.eps));
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
  if (norm.x.count() == 0) return;
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
