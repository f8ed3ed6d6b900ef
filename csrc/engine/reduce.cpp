// reduce: the mean, sum, maximum or minimum along some axes.
//
//   in   x fp32;  out  y of x's shape with those axes of size 1
//   attributes: the kind's number in REDUCTIONS of runtime/sparsetrain_runtime/program.py, the axes
//
// Sums are fp64. A maximum or minimum with NaN is NaN, and one of nothing is refused.
#include <limits>

#include "operations.h"
#include "sums.h"

namespace sparsetrain::engine {
namespace {

enum Kind : int64_t { kMean, kSum, kMaximum, kMinimum };

constexpr int kParts = 16;

template <Kind kind>
using Number = std::conditional_t<kind == kMean || kind == kSum, double, float>;

template <Kind kind>
SPARSETRAIN_LOOP Number<kind> both(Number<kind> a, Number<kind> b) {
  if constexpr (kind == kMaximum)
    return (b > a) | (b != b) ? b : a;
  else if constexpr (kind == kMinimum)
    return (b < a) | (b != b) ? b : a;
  else
    return a + b;
}

template <Kind kind>
constexpr Number<kind> none() {
  constexpr auto infinity = std::numeric_limits<Number<kind>>::infinity();
  return kind == kMaximum ? -infinity : kind == kMinimum ? infinity : 0;
}

// total[l] takes in x[i * step + l] for all i < n, L lanes in registers.
template <Kind kind, int L>
SPARSETRAIN_LOOP void take_some(Number<kind>* total, const float* x, int64_t step, int64_t n) {
  Number<kind> part[L];
  for (int l = 0; l < L; l++) part[l] = total[l];
  for (int64_t i = 0; i < n; i++, x += step)
    for (int l = 0; l < L; l++) part[l] = both<kind>(part[l], Number<kind>(x[l]));
  for (int l = 0; l < L; l++) total[l] = part[l];
}

template <Kind kind>
SPARSETRAIN_LOOP void take_lanes(Number<kind>* total, const float* x, int64_t step, int64_t n,
                                 int64_t lanes) {
  int64_t l = 0;
  for (; l + 32 <= lanes; l += 32) take_some<kind, 32>(total + l, x + l, step, n);
  for (; l + 8 <= lanes; l += 8) take_some<kind, 8>(total + l, x + l, step, n);
  for (; l < lanes; l++) take_some<kind, 1>(total + l, x + l, step, n);
}

template <Kind kind>
SPARSETRAIN_LOOP void take_run(Number<kind>* total, const float* x, int64_t step, int64_t n,
                               int64_t) {
  Number<kind> part[kParts];
  for (int k = 0; k < kParts; k++) part[k] = none<kind>();
  const int64_t whole = step == 1 ? n / kParts * kParts : 0;
  for (int64_t i = 0; i < whole; i += kParts)
    for (int k = 0; k < kParts; k++) part[k] = both<kind>(part[k], Number<kind>(x[i + k]));
  for (int64_t i = whole; i < n; i++) part[0] = both<kind>(part[0], Number<kind>(x[i * step]));
  for (int k = 0; k < kParts; k++) *total = both<kind>(*total, part[k]);
}

template <Kind kind>
void run_of(const Call& call, Threads& threads) {
  const Operand& x = call.in[0];
  const Attributes& given = call.attributes;
  bool summed[kMostAxes] = {};
  Operand y = call.out[0];
  for (int64_t i = 1; i < given.count; i++)
    summed[given.whole(i)] = true, y.stride[given.whole(i)] = 0;
  const Rows<2> rows({&x, &y}, [&](int a) { return summed[a]; });
  const double divisor = kind == kMean ? double(rows.summed.count()) : 1;
  const bool beside = rows.beside();
  each_group(rows, threads, [&](const int64_t* begin, int64_t lanes, int64_t) {
    Number<kind> total[kLanes];
    std::fill_n(total, lanes, none<kind>());
    each_summed(rows, begin, [&](const int64_t* at, int64_t n) {
      const float* from = x.floats() + at[0];
      if (beside)
        simd<take_lanes<kind>>(total, from, rows.summed.step(0), n, lanes);
      else
        simd<take_run<kind>>(total, from, rows.summed.step(0), n, lanes);
    });
    for (int64_t l = 0; l < lanes; l++)
      y.floats()[begin[1] + l * rows.kept.step(1)] = float(total[l] / Number<kind>(divisor));
  });
}

void check(const Call& call) {
  require(call.inputs == 1 && call.outputs == 1 && call.attributes.count >= 1,
          "reduce: one input, one output, a kind and axes are needed");
  const Operand &x = call.in[0], &y = call.out[0];
  const int64_t kind = call.attributes.whole(0);
  require(kind >= kMean && kind <= kMinimum, "reduce: there is no kind of that number");
  require(x.dtype == DType::kFloat && y.dtype == DType::kFloat, "reduce: x and y must be fp32");
  require(x.rank == y.rank, "reduce: y must have as many axes as x");
  bool summed[kMostAxes] = {};
  for (int64_t i = 1; i < call.attributes.count; i++) {
    const int64_t axis = call.attributes.whole(i);
    require(axis >= 0 && axis < x.rank && !summed[axis], "reduce: there is no such axis");
    require(kind < kMaximum || x.shape[axis] > 0, "reduce: there is no maximum of nothing");
    summed[axis] = true;
  }
  for (int a = 0; a < x.rank; a++)
    require(y.shape[a] == (summed[a] ? 1 : x.shape[a]),
            "reduce: y must have size 1 along the axes, and x's sizes elsewhere");
}

void run(const Call& call, Threads& threads) {
  switch (Kind(call.attributes.whole(0))) {
    case kMean:
      return run_of<kMean>(call, threads);
    case kSum:
      return run_of<kSum>(call, threads);
    case kMaximum:
      return run_of<kMaximum>(call, threads);
    default:
      return run_of<kMinimum>(call, threads);
  }
}

}  // namespace

const Operation kReduce{"reduce", check, run};

}  // namespace sparsetrain::engine
