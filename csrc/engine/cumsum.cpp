// cumsum: y[k] = x[0] + ... + x[k] along an axis.
//
//   in   x, fp32 or int64;  out  y like it;  attributes: the axis
//
// Sums of fp32 are kept in fp64.
#include "operations.h"
#include "sums.h"

namespace sparsetrain::engine {
namespace {

template <typename T, typename Sum>
void run_of(const Call& call, Threads& threads) {
  const Operand &x = call.in[0], &y = call.out[0];
  const int64_t axis = call.attributes.whole(0);
  const Rows<2> rows({&x, &y}, [&](int a) { return a == axis; });
  const Loops<2>& summed = rows.summed;
  each_group(rows, threads, [&](const int64_t* at, int64_t lanes, int64_t) {
    Sum sum[kLanes] = {};
    const T* from = data_of<T>(x) + at[0];
    T* to = data_of<T>(y) + at[1];
    for (int64_t i = 0; i < summed.run(); i++)
      for (int64_t l = 0; l < lanes; l++) {
        sum[l] += Sum(from[i * summed.step(0) + l * rows.kept.step(0)]);
        to[i * summed.step(1) + l * rows.kept.step(1)] = T(sum[l]);
      }
  });
}

void check(const Call& call) {
  require_counts(call, 1, 1, "cumsum: one input, one output and an axis are needed");
  const Operand &x = call.in[0], &y = call.out[0];
  require(same_shape(x, y), "cumsum: x and y must be of one shape");
  require(x.dtype == y.dtype && (x.dtype == DType::kFloat || x.dtype == DType::kInt64),
          "cumsum: x and y must be fp32 or int64, both");
  require(call.attributes.whole(0) >= 0 && call.attributes.whole(0) < x.rank,
          "cumsum: there is no such axis");
}

void run(const Call& call, Threads& threads) {
  if (call.in[0].dtype == DType::kFloat) return run_of<float, double>(call, threads);
  run_of<int64_t, uint64_t>(call, threads);
}

}  // namespace

const Operation kCumsum{"cumsum", check, run};

}  // namespace sparsetrain::engine
