// where: y = condition ? a : b, number by number.
//
//   in   condition bool, a, b of one dtype; what is repeated has strides of 0
//   out  y of their shape and of a's dtype: fp32, int64 or bool
#include "operations.h"
#include "pointwise.h"

namespace sparsetrain::engine {
namespace {

template <typename T>
SPARSETRAIN_LOOP void choose(T* y, const uint8_t* condition, const T* a, const T* b, int64_t n) {
  SPARSETRAIN_IN_PLACE
  for (int64_t i = 0; i < n; i++) {
    const T yes = a[i], no = b[i];
    y[i] = condition[i] ? yes : no;
  }
}

template <typename T>
void run_of(const Call& call, Threads& threads) {
  pointwise<T, uint8_t, T, T>(call.out[0], {&call.in[0], &call.in[1], &call.in[2]}, threads,
                              [](T* y, const uint8_t* condition, const T* a, const T* b,
                                 int64_t n) { simd<choose<T>>(y, condition, a, b, n); });
}

void check(const Call& call) {
  require_counts(call, 3, 0, "where: three inputs, one output and no attributes are needed");
  const Operand& y = call.out[0];
  for (int i = 0; i < 3; i++)
    require(same_shape(call.in[i], y), "where: all operands must be of one shape");
  require(call.in[0].dtype == DType::kBool, "where: the condition must be bool");
  require(call.in[1].dtype == y.dtype && call.in[2].dtype == y.dtype,
          "where: a, b and y must be of one dtype");
  require(y.dtype == DType::kFloat || y.dtype == DType::kInt64 || y.dtype == DType::kBool,
          "where: y must be fp32, int64 or bool");
}

void run(const Call& call, Threads& threads) {
  switch (call.out[0].dtype) {
    case DType::kFloat:
      return run_of<float>(call, threads);
    case DType::kInt64:
      return run_of<int64_t>(call, threads);
    default:
      return run_of<uint8_t>(call, threads);
  }
}

}  // namespace

const Operation kWhere{"where", check, run};

}  // namespace sparsetrain::engine
