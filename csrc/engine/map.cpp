// map: y = f(x), number by number; y may be x.
//
//   in   x fp32;  out  y like it
//   attributes: the function's number in UNARY of runtime/sparsetrain_runtime/program.py, then two
//   parameters, real numbers: those that the function has (a clamp's ends may be infinite), else 0
//   The last function, "not", is of bool.
#include "functions.h"
#include "operations.h"
#include "pointwise.h"

namespace sparsetrain {
using MapRun = void (*)(float* y, const float* x, int64_t n, float p, float q);
}

#define SPARSETRAIN_LOOPS "engine/map_loops.h"
#include "../each_isa.h"

namespace sparsetrain::engine {
namespace {

constexpr int64_t kSqrt = 16, kRsqrt = 17, kReciprocal = 18, kPower = 21, kNot = 27, kSquare = 27;

// The function's number among the loops. Powers that are common have loops of their own.
int64_t loop_of(int64_t function, double exponent) {
  if (function != kPower) return function;
  if (exponent == 2) return kSquare;
  if (exponent == 0.5) return kSqrt;
  if (exponent == -0.5) return kRsqrt;
  return exponent == -1 ? kReciprocal : kPower;
}

void check(const Call& call) {
  require_counts(call, 1, 3, "map: one input, one output and three attributes are needed");
  const int64_t function = call.attributes.whole(0);
  require(function >= 0 && function <= kNot, "map: there is no function of that number");
  require(same_shape(call.in[0], call.out[0]), "map: x and y must be of one shape");
  const DType dtype = function == kNot ? DType::kBool : DType::kFloat;
  require(call.in[0].dtype == dtype && call.out[0].dtype == dtype,
          "map: x and y must be fp32, or bool for not");
}

void invert(const Call& call, Threads& threads) {
  pointwise<uint8_t, uint8_t>(call.out[0], {&call.in[0]}, threads,
                              [](uint8_t* y, const uint8_t* x, int64_t n) {
                                SPARSETRAIN_IN_PLACE
                                for (int64_t i = 0; i < n; i++) y[i] = x[i] == 0;
                              });
}

void run(const Call& call, Threads& threads) {
  const Attributes& a = call.attributes;
  if (a.whole(0) == kNot) return invert(call, threads);
  const MapRun loop = SPARSETRAIN_BEST(map_run_of)(loop_of(a.whole(0), a.real(1)));
  const float p = float(a.real(1)), q = float(a.real(2));
  pointwise<float, float>(call.out[0], {&call.in[0]}, threads,
                          [=](float* y, const float* x, int64_t n) { loop(y, x, n, p, q); });
}

}  // namespace

const Operation kMap{"map", check, run};

}  // namespace sparsetrain::engine
