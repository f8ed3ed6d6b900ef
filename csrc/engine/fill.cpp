// fill: y = value.
//
//   out  y, of fp32, int64 or bool
//   attributes: value, a real number
#include "fill.h"

#include "operations.h"
#include "pointwise.h"

namespace sparsetrain::engine {
namespace {

template <typename T>
void fill_of(const Operand& y, T value, Threads& threads) {
  pointwise<T>(y, {}, threads, [=](T* to, int64_t n) { std::fill_n(to, n, value); });
}

void check(const Call& call) {
  require_counts(call, 0, 1, "fill: one output and one attribute are needed");
  const DType dtype = call.out[0].dtype;
  require(dtype == DType::kFloat || dtype == DType::kInt64 || dtype == DType::kBool,
          "fill: y must be fp32, int64 or bool");
  const double value = call.attributes.real(0);
  require(dtype != DType::kInt64 || (value >= -9.2e18 && value <= 9.2e18),
          "fill: the value is out of int64's range");
}

void run(const Call& call, Threads& threads) {
  fill_numbers(call.out[0], call.attributes.real(0), threads);
}

}  // namespace

void fill_numbers(const Operand& y, double value, Threads& threads) {
  if (y.dtype == DType::kFloat) return fill_of<float>(y, float(value), threads);
  if (y.dtype == DType::kInt64) return fill_of<int64_t>(y, int64_t(value), threads);
  fill_of<uint8_t>(y, value != 0, threads);
}

const Operation kFill{"fill", check, run};

}  // namespace sparsetrain::engine
