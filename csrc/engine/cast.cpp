// cast: y = x in y's dtype.
//
//   in   x, out  y of its shape; each fp32, int64 or bool
//
// Of fp32, int64 is what is left without the fraction, and the least int64 for what does not fit
// and for NaN, as on x86; bool is whether it is not 0.
#include "operations.h"
#include "pointwise.h"

namespace sparsetrain::engine {
namespace {

template <typename To, typename From>
SPARSETRAIN_LOOP To cast_of(From x) {
  if constexpr (std::is_same_v<To, uint8_t>)
    return x != From(0);
  else if constexpr (std::is_same_v<From, float> && std::is_same_v<To, int64_t>)
    return x >= -9223372036854775808.0f && x < 9223372036854775808.0f ? int64_t(x) : INT64_MIN;
  else
    return To(x);
}

template <typename To, typename From>
SPARSETRAIN_LOOP void cast_run(To* y, const From* x, int64_t n) {
  for (int64_t i = 0; i < n; i++) y[i] = cast_of<To>(x[i]);
}

template <typename To, typename From>
void run_of(const Call& call, Threads& threads) {
  pointwise<To, From>(call.out[0], {&call.in[0]}, threads,
                      [](To* y, const From* x, int64_t n) { simd<cast_run<To, From>>(y, x, n); });
}

template <typename To>
void run_to(const Call& call, Threads& threads) {
  switch (call.in[0].dtype) {
    case DType::kFloat:
      return run_of<To, float>(call, threads);
    case DType::kInt64:
      return run_of<To, int64_t>(call, threads);
    default:
      return run_of<To, uint8_t>(call, threads);
  }
}

void check(const Call& call) {
  require_counts(call, 1, 0, "cast: one input, one output and no attributes are needed");
  require(same_shape(call.in[0], call.out[0]), "cast: x and y must be of one shape");
  for (const DType dtype : {call.in[0].dtype, call.out[0].dtype})
    require(dtype == DType::kFloat || dtype == DType::kInt64 || dtype == DType::kBool,
            "cast: x and y must be fp32, int64 or bool");
}

void run(const Call& call, Threads& threads) {
  switch (call.out[0].dtype) {
    case DType::kFloat:
      return run_to<float>(call, threads);
    case DType::kInt64:
      return run_to<int64_t>(call, threads);
    default:
      return run_to<uint8_t>(call, threads);
  }
}

}  // namespace

const Operation kCast{"cast", check, run};

}  // namespace sparsetrain::engine
