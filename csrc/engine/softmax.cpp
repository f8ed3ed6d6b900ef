// softmax: y = exp(x) / sum exp(x) along an axis, or its logarithm.
//
//   in   x fp32;  out  y like it;  attributes: the axis, whether it is the logarithm
//
// A column of -Inf alone, or with NaN or +Inf in it, is NaN, as in PyTorch.
#include "softmax.h"

#include "operations.h"
#include "sums.h"

namespace sparsetrain::engine {
namespace {

void check(const Call& call) {
  require_counts(call, 1, 2, "softmax: one input, one output and two attributes are needed");
  const Operand &x = call.in[0], &y = call.out[0];
  require(same_shape(x, y), "softmax: x and y must be of one shape");
  require(x.dtype == DType::kFloat && y.dtype == DType::kFloat, "softmax: x and y must be fp32");
  require(call.attributes.whole(0) >= 0 && call.attributes.whole(0) < x.rank,
          "softmax: there is no such axis");
  require(call.attributes.whole(1) == 0 || call.attributes.whole(1) == 1,
          "softmax: the second attribute must be 0 or 1");
}

int64_t scratch(const Call& call, int threads) {
  return 2 * threads * call.in[0].shape[call.attributes.whole(0)];
}

// A row whose numbers lie apart passes through `held`.
void run_row(const Loops<2>& axis, const float* x, float* y, bool logarithm, float* held) {
  const int64_t n = axis.run(), x_step = axis.step(0), y_step = axis.step(1);
  for (int64_t i = 0; i < n && x_step != 1; i++) held[i] = x[i * x_step];
  float* to = y_step == 1 ? y : held + n;
  SPARSETRAIN_BEST(softmax_run)(x_step == 1 ? x : held, to, n, logarithm);
  for (int64_t i = 0; i < n && y_step != 1; i++) y[i * y_step] = to[i];
}

void run(const Call& call, Threads& threads) {
  const Operand &x = call.in[0], &y = call.out[0];
  if (x.count() == 0) return;
  const int64_t axis = call.attributes.whole(0);
  const bool logarithm = call.attributes.whole(1);
  const Rows<2> rows({&x, &y}, [&](int a) { return a == axis; });
  const Loops<2>& summed = rows.summed;
  const bool beside = rows.beside() && rows.kept.step(1) == 1;
  each_group(rows, threads, [&](const int64_t* at, int64_t lanes, int64_t share) {
    const float* from = x.floats() + at[0];
    float *to = y.floats() + at[1], *held = call.scratch + share * 2 * summed.run();
    if (beside)
      return SPARSETRAIN_BEST(softmax_lanes)(
          {from, to, summed.step(0), summed.step(1), summed.run(), lanes}, logarithm, false);
    for (int64_t l = 0; l < lanes; l++)
      run_row(summed, from + l * rows.kept.step(0), to + l * rows.kept.step(1), logarithm, held);
  });
}

}  // namespace

const Operation kSoftmax{"softmax", check, run, scratch};

}  // namespace sparsetrain::engine
