// norm: a layer norm or an RMS norm over the last axes.
//
//   in   x fp32, weight and bias of the shape of these axes: where there are;  out  y like x
//   attributes: whether it is an RMS norm, the number of axes, whether there are a weight and a
//   bias, eps, a real number
//
// group_norm: a norm over groups of channels.
//
//   in   x fp32 [N, C, ...], weight and bias [C]: where there are;  out  y like x
//   attributes: the number of groups, whether there are a weight and a bias, eps, a real number
#include "loops.h"
#include "norms.h"
#include "operations.h"

namespace sparsetrain::engine {
namespace {

constexpr int kMostGrouped = kMostAxes - 1;  // axes of x, of which groups make one more

struct Given {
  bool weight, bias;
  double eps;
};

Given given_of(const Call& call, int64_t first) {
  const Attributes& a = call.attributes;
  return {a.whole(first) != 0, a.whole(first + 1) != 0, a.real(first + 2)};
}

// Calls f(operand) for the weight and bias that there are.
template <typename F>
void each_given(const Call& call, const Given& given, const F& f) {
  int next = 1;
  if (given.weight) f(call.in[next++]);
  if (given.bias) f(call.in[next]);
}

void check_both(const Call& call, int64_t first) {
  const Attributes& a = call.attributes;
  for (int64_t i : {first, first + 1})
    require(a.whole(i) == 0 || a.whole(i) == 1, "norm: a flag must be 0 or 1");
  require(call.inputs == 1 + a.whole(first) + a.whole(first + 1) && call.outputs == 1,
          "norm: the number of operands does not fit the attributes");
  require(a.real(first + 2) >= 0, "norm: eps must not be negative");
  require(same_shape(call.in[0], call.out[0]), "norm: x and y must be of one shape");
  require(call.out[0].dtype == DType::kFloat, "norm: y must be fp32");
  for (int i = 0; i < call.inputs; i++)
    require(call.in[i].dtype == DType::kFloat, "norm: inputs must be fp32");
}

void check_norm(const Call& call) {
  require(call.attributes.count == 5, "norm: five attributes are needed");
  const int64_t axes = call.attributes.whole(1);
  require(call.attributes.whole(0) == 0 || call.attributes.whole(0) == 1,
          "norm: a flag must be 0 or 1");
  check_both(call, 2);
  const Operand& x = call.in[0];
  require(axes >= 1 && axes <= x.rank, "norm: x has too few axes");
  each_given(call, given_of(call, 2), [&](const Operand& w) {
    require(w.rank == axes && std::equal(w.shape, w.shape + axes, x.shape + x.rank - axes),
            "norm: weight and bias must have the shape of the last axes");
  });
}

void check_group_norm(const Call& call) {
  require(call.attributes.count == 4, "group_norm: four attributes are needed");
  const Operand& x = call.in[0];
  const int64_t groups = call.attributes.whole(0);
  check_both(call, 1);
  require(x.rank >= 2 && x.rank <= kMostGrouped, "group_norm: x must have 2 to 7 axes");
  require(groups >= 1 && x.shape[1] % groups == 0,
          "group_norm: channels must be a multiple of the groups");
  each_given(call, given_of(call, 1), [&](const Operand& w) {
    require(w.rank == 1 && w.shape[0] == x.shape[1], "group_norm: weight and bias must be [C]");
  });
}

// With axis 1, of channels, as two: groups, and channels of each.
Operand grouped(const Operand& x, int64_t groups) {
  Operand made = x;
  made.rank++;
  for (int a = x.rank; a > 2; a--) made.shape[a] = x.shape[a - 1], made.stride[a] = x.stride[a - 1];
  made.shape[1] = groups, made.shape[2] = x.shape[1] / groups;
  made.stride[1] = x.stride[1] * made.shape[2], made.stride[2] = x.stride[1];
  return made;
}

// Fills in weight and bias: `axis` of x is the first that they have.
void add_weights(const Call& call, const Given& given, Norm& norm, int axis, int axes,
                 int64_t groups) {
  Operand* to[] = {&norm.weight, &norm.bias};
  int next = 1;
  for (int i = 0; i < 2; i++) {
    if (!(i == 0 ? given.weight : given.bias)) continue;
    const Operand& w = call.in[next++];
    to[i]->data = w.data;
    for (int a = 0; a < axes && !groups; a++) to[i]->stride[axis + a] = w.stride[a];
    if (groups) {
      to[i]->stride[1] = w.stride[0] * norm.x.shape[2];
      to[i]->stride[2] = w.stride[0];
    }
  }
}

void run_norm(const Call& call, Threads& threads) {
  const Attributes& a = call.attributes;
  const Operand& x = call.in[0];
  const int axes = int(a.whole(1)), first = x.rank - axes;
  const Given given = given_of(call, 2);
  float one = 1, zero = 0;
  Norm norm{x,           constant_like(x, &one), constant_like(x, &zero),
            call.out[0], a.whole(0) == 0,        given.eps,
            {}};
  add_weights(call, given, norm, first, axes, 0);
  for (int i = first; i < x.rank; i++) norm.summed[i] = true;
  normalise(norm, threads);
}

void run_group_norm(const Call& call, Threads& threads) {
  const int64_t groups = call.attributes.whole(0);
  const Operand x = grouped(call.in[0], groups);
  const Given given = given_of(call, 1);
  float one = 1, zero = 0;
  Norm norm{x,
            constant_like(x, &one),
            constant_like(x, &zero),
            grouped(call.out[0], groups),
            true,
            given.eps,
            {}};
  add_weights(call, given, norm, 1, 2, groups);
  for (int i = 2; i < x.rank; i++) norm.summed[i] = true;
  normalise(norm, threads);
}

}  // namespace

const Operation kNorm{"norm", check_norm, run_norm};
const Operation kGroupNorm{"group_norm", check_group_norm, run_group_norm};

}  // namespace sparsetrain::engine
