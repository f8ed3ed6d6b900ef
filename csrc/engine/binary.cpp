// binary: y = a op b, number by number; y may be a.
//
//   in   a, b of one dtype; what is repeated has strides of 0;  out  y of their shape
//   attributes: op's number in BINARY of runtime/sparsetrain_runtime/program.py
//
// Arithmetic is of fp32 or int64, with y of the same dtype, and division of fp32 alone.
// Comparisons take any dtype and make bool; "and" and "or" are of bool. A maximum or minimum with
// NaN is NaN.
#include <cmath>

#include "operations.h"
#include "pointwise.h"

namespace sparsetrain::engine {
namespace {

enum Kind : int64_t {
  kAdd,
  kSubtract,
  kMultiply,
  kDivide,
  kMaximum,
  kMinimum,
  kPower,
  kEqual,
  kNotEqual,
  kLess,
  kLessEqual,
  kGreater,
  kGreaterEqual,
  kAnd,
  kOr,
  kKinds
};

// int64 wraps around, as in PyTorch.
template <Kind kind>
SPARSETRAIN_LOOP int64_t wrapped(int64_t a, int64_t b) {
  const auto x = uint64_t(a), y = uint64_t(b);
  return int64_t(kind == kAdd ? x + y : kind == kSubtract ? x - y : x * y);
}

// Of a negative exponent 0, but for bases of 1 and -1.
inline int64_t power(int64_t base, int64_t exponent) {
  if (exponent < 0) return base == 1 ? 1 : base == -1 ? (exponent % 2 ? -1 : 1) : 0;
  int64_t result = 1;
  for (; exponent; exponent >>= 1) {
    if (exponent & 1) result = wrapped<kMultiply>(result, base);
    base = wrapped<kMultiply>(base, base);
  }
  return result;
}
inline float power(float base, float exponent) { return std::pow(base, exponent); }

template <Kind kind, typename T>
SPARSETRAIN_LOOP auto value_of(T a, T b) {
  constexpr bool kReal = std::is_same_v<T, float>;
  if constexpr (!kReal && (kind == kAdd || kind == kSubtract || kind == kMultiply))
    return wrapped<kind>(a, b);
  else if constexpr (kind == kAdd)
    return a + b;
  else if constexpr (kind == kSubtract)
    return a - b;
  else if constexpr (kind == kMultiply)
    return a * b;
  else if constexpr (kind == kDivide)
    return a / b;
  else if constexpr (kind == kMaximum)
    return (a > b) | (a != a) ? a : b;
  else if constexpr (kind == kMinimum)
    return (a < b) | (a != a) ? a : b;
  else
    return power(a, b);
}

template <Kind kind, typename T>
SPARSETRAIN_LOOP bool truth_of(T a, T b) {
  switch (kind) {
    case kEqual:
      return a == b;
    case kNotEqual:
      return a != b;
    case kLess:
      return a < b;
    case kLessEqual:
      return a <= b;
    case kGreater:
      return a > b;
    case kGreaterEqual:
      return a >= b;
    case kAnd:
      return (a != 0) & (b != 0);
    default:
      return (a != 0) | (b != 0);
  }
}

template <Kind kind, typename T>
SPARSETRAIN_LOOP void values(T* y, const T* a, const T* b, int64_t n) {
  SPARSETRAIN_IN_PLACE
  for (int64_t i = 0; i < n; i++) y[i] = value_of<kind>(a[i], b[i]);
}

template <Kind kind, typename T>
SPARSETRAIN_LOOP void truths(uint8_t* y, const T* a, const T* b, int64_t n) {
  SPARSETRAIN_IN_PLACE
  for (int64_t i = 0; i < n; i++) y[i] = truth_of<kind>(a[i], b[i]);
}

template <typename T, Kind kind>
void run_of(const Call& call, Threads& threads) {
  const Operands<2> x{&call.in[0], &call.in[1]};
  if constexpr (kind >= kEqual)
    pointwise<uint8_t, T, T>(
        call.out[0], x, threads,
        [](uint8_t* y, const T* a, const T* b, int64_t n) { simd<truths<kind, T>>(y, a, b, n); });
  else
    pointwise<T, T, T>(call.out[0], x, threads, [](T* y, const T* a, const T* b, int64_t n) {
      simd<values<kind, T>>(y, a, b, n);
    });
}

using Run = void (*)(const Call&, Threads&);

// Of kinds from `first` on.
template <typename T, int first, int... I>
Run run_by(int64_t kind, std::integer_sequence<int, I...>) {
  constexpr Run kRuns[] = {run_of<T, Kind(first + I)>...};
  return kRuns[kind - first];
}

void check(const Call& call) {
  require_counts(call, 2, 1, "binary: two inputs, one output and one attribute are needed");
  const int64_t kind = call.attributes.whole(0);
  require(kind >= 0 && kind < kKinds, "binary: there is no operation of that number");
  const Operand &a = call.in[0], &b = call.in[1], &y = call.out[0];
  require(same_shape(a, y) && same_shape(b, y), "binary: a, b and y must be of one shape");
  require(a.dtype == b.dtype, "binary: a and b must be of one dtype");
  const bool real = a.dtype == DType::kFloat, whole = a.dtype == DType::kInt64;
  require(real || whole || (a.dtype == DType::kBool && kind >= kEqual),
          "binary: a and b must be fp32 or int64, or bool for comparisons");
  require(y.dtype == (kind >= kEqual ? DType::kBool : a.dtype),
          "binary: y must be of a's dtype, or bool of comparisons");
  require(kind < kAnd || a.dtype == DType::kBool, "binary: and, or take bool");
  require(kind != kDivide || real, "binary: divide takes fp32");
}

void run(const Call& call, Threads& threads) {
  const int64_t kind = call.attributes.whole(0);
  const std::make_integer_sequence<int, kAnd> numbers;
  const std::make_integer_sequence<int, kKinds - kEqual> truths;
  if (call.in[0].dtype == DType::kFloat) return run_by<float, 0>(kind, numbers)(call, threads);
  if (call.in[0].dtype == DType::kInt64) return run_by<int64_t, 0>(kind, numbers)(call, threads);
  run_by<uint8_t, kEqual>(kind, truths)(call, threads);
}

}  // namespace

const Operation kBinary{"binary", check, run};

}  // namespace sparsetrain::engine
