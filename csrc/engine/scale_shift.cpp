// scale_shift: y = x * scale + shift along one axis. prelu: y = x > 0 ? x : x * weight. In both y
// may be x.
//
//   in   x fp32, scale, shift fp32 [size of the axis];  prelu: x, weight [size of the axis] or [1]
//   out  y like x
//   attributes: the axis
#include "operations.h"
#include "pointwise.h"

namespace sparsetrain::engine {
namespace {

SPARSETRAIN_LOOP void scaled(float* y, const float* x, const float* scale, const float* shift,
                             int64_t n) {
  SPARSETRAIN_IN_PLACE
  for (int64_t i = 0; i < n; i++) y[i] = x[i] * scale[i] + shift[i];
}

SPARSETRAIN_LOOP void leaky(float* y, const float* x, const float* weight, int64_t n) {
  SPARSETRAIN_IN_PLACE
  for (int64_t i = 0; i < n; i++) {
    const float low = x[i] * weight[i], high = x[i];
    y[i] = high > 0 ? high : low;
  }
}

// A vector along one axis of `like`, repeated along the others.
Operand along(const Operand& vector, const Operand& like, int64_t axis) {
  Operand operand = like;
  operand.data = vector.data;
  std::fill_n(operand.stride, kMostAxes, 0);
  if (vector.shape[0] > 1) operand.stride[axis] = vector.stride[0];
  return operand;
}

void check_axis(const Call& call) {
  const Operand& x = call.in[0];
  const int64_t axis = call.attributes.whole(0);
  require(axis >= 0 && axis < x.rank, "scale_shift, prelu: there is no such axis");
  require(same_shape(x, call.out[0]), "scale_shift, prelu: x and y must be of one shape");
  for (int i = 0; i < call.inputs; i++)
    require(call.in[i].dtype == DType::kFloat, "scale_shift, prelu: inputs must be fp32");
  require(call.out[0].dtype == DType::kFloat, "scale_shift, prelu: y must be fp32");
}

void check_scale_shift(const Call& call) {
  require_counts(call, 3, 1, "scale_shift: three inputs, one output and an axis are needed");
  check_axis(call);
  for (int i : {1, 2})
    require(
        call.in[i].rank == 1 && call.in[i].shape[0] == call.in[0].shape[call.attributes.whole(0)],
        "scale_shift: scale and shift must be of the axis' size");
}

void check_prelu(const Call& call) {
  require_counts(call, 2, 1, "prelu: two inputs, one output and an axis are needed");
  check_axis(call);
  const Operand& weight = call.in[1];
  const int64_t size = call.in[0].shape[call.attributes.whole(0)];
  require(weight.rank == 1 && (weight.shape[0] == 1 || weight.shape[0] == size),
          "prelu: weight must be of the axis' size or of one number");
}

void run_scale_shift(const Call& call, Threads& threads) {
  const int64_t axis = call.attributes.whole(0);
  const Operand scale = along(call.in[1], call.in[0], axis);
  const Operand shift = along(call.in[2], call.in[0], axis);
  pointwise<float, float, float, float>(
      call.out[0], {&call.in[0], &scale, &shift}, threads,
      [](float* y, const float* x, const float* scale, const float* shift, int64_t n) {
        simd<scaled>(y, x, scale, shift, n);
      });
}

void run_prelu(const Call& call, Threads& threads) {
  const Operand weight = along(call.in[1], call.in[0], call.attributes.whole(0));
  pointwise<float, float, float>(call.out[0], {&call.in[0], &weight}, threads,
                                 [](float* y, const float* x, const float* weight, int64_t n) {
                                   simd<leaky>(y, x, weight, n);
                                 });
}

}  // namespace

const Operation kScaleShift{"scale_shift", check_scale_shift, run_scale_shift};
const Operation kPrelu{"prelu", check_prelu, run_prelu};

}  // namespace sparsetrain::engine
