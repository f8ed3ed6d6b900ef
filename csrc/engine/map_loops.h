// The loops of map.cpp for one instruction set: see functions.h and each_isa.h. A function is a
// type with of(x, p, q), p and q being its parameters.

#define SPARSETRAIN_INLINE SPARSETRAIN_TARGET [[gnu::always_inline]] inline
#define SPARSETRAIN_FUNCTION(Name, formula)                                                   \
  struct Name {                                                                               \
    SPARSETRAIN_INLINE static Reg of(Reg x, [[maybe_unused]] Reg p, [[maybe_unused]] Reg q) { \
      return formula;                                                                         \
    }                                                                                         \
  }

SPARSETRAIN_INLINE Reg hard_gate(Reg x) {
  const Reg moved = smaller(broadcast(6), larger(broadcast(0), x + broadcast(3)));
  return moved * broadcast(1 / 6.f);
}
SPARSETRAIN_INLINE Reg gelu_of(Reg x) {
  return x * broadcast(0.5f) * (broadcast(1) + erf_of(x * broadcast(0.70710678118654752f)));
}
SPARSETRAIN_INLINE Reg gelu_tanh_of(Reg x) {
  const Reg inner = broadcast(0.79788456080286536f) * (x + broadcast(0.044715f) * x * x * x);
  return broadcast(0.5f) * x * (broadcast(1) + tanh_of(inner));
}
SPARSETRAIN_INLINE Reg softplus_of(Reg x) {
  const Reg near = log1p_of(exp_of(smaller(broadcast(20), x)));
  return select(less(broadcast(20), x), x, near);
}
// x tanh(ln(1 + e)) = x (e^2 + 2 e) / (e^2 + 2 e + 2), with e = e^x.
SPARSETRAIN_INLINE Reg mish_of(Reg x) {
  const Reg e = exp_of(smaller(broadcast(20), x)), n = e * (e + broadcast(2));
  return select(less(broadcast(20), x), x, x * (n / (n + broadcast(2))));
}
template <typename F>
SPARSETRAIN_INLINE Reg each_of(Reg x, const F& f) {
  float lane[kWidth];
  store(lane, x);
  for (int i = 0; i < kWidth; i++) lane[i] = f(lane[i]);
  return load(lane);
}

SPARSETRAIN_FUNCTION(Relu, relu(x));
SPARSETRAIN_FUNCTION(Clamp, smaller(q, larger(p, x)));
SPARSETRAIN_FUNCTION(LeakyRelu, select(less(broadcast(0), x), x, x* p));
SPARSETRAIN_FUNCTION(Elu, select(less(x, broadcast(0)), p* expm1_of(x), x));
SPARSETRAIN_FUNCTION(Silu, x / (broadcast(1) + exp_of(broadcast(0) - x)));
SPARSETRAIN_FUNCTION(Gelu, gelu_of(x));
SPARSETRAIN_FUNCTION(GeluTanh, gelu_tanh_of(x));
SPARSETRAIN_FUNCTION(QuickGelu, x* sigmoid_of(x* broadcast(1.702f)));
SPARSETRAIN_FUNCTION(Hardswish, x* hard_gate(x));
SPARSETRAIN_FUNCTION(Hardsigmoid, hard_gate(x));
SPARSETRAIN_FUNCTION(Sigmoid, sigmoid_of(x));
SPARSETRAIN_FUNCTION(Tanh, tanh_of(x));
SPARSETRAIN_FUNCTION(Softplus, softplus_of(x));
SPARSETRAIN_FUNCTION(Mish, mish_of(x));
SPARSETRAIN_FUNCTION(Exp, exp_of(x));
SPARSETRAIN_FUNCTION(Log, log_of(x));
SPARSETRAIN_FUNCTION(Sqrt, square_root(x));
SPARSETRAIN_FUNCTION(Rsqrt, broadcast(1) / square_root(x));
SPARSETRAIN_FUNCTION(Reciprocal, broadcast(1) / x);
SPARSETRAIN_FUNCTION(Negative, x* broadcast(-1));
SPARSETRAIN_FUNCTION(Absolute, absolute(x));
SPARSETRAIN_FUNCTION(Erf, erf_of(x));
SPARSETRAIN_FUNCTION(Sin, each_of(x, [](float a) { return std::sin(a); }));
SPARSETRAIN_FUNCTION(Cos, each_of(x, [](float a) { return std::cos(a); }));
SPARSETRAIN_FUNCTION(Affine, x* p + q);
SPARSETRAIN_FUNCTION(Floor, floored(x));
SPARSETRAIN_FUNCTION(Square, x* x);
struct Power {
  SPARSETRAIN_INLINE static Reg of(Reg x, Reg p, Reg) {
    float exponent[kWidth];
    store(exponent, p);
    return each_of(x, [&](float a) { return std::pow(a, exponent[0]); });
  }
};

// y = F(x), which may be in place.
template <typename F>
SPARSETRAIN_TARGET void map_run(float* y, const float* x, int64_t n, float p, float q) {
  const Reg first = broadcast(p), second = broadcast(q);
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) store(y + i, F::of(load(x + i), first, second));
  if (i == n) return;
  const int left = int(n - i);
  store_first(y + i, F::of(load_first(x + i, left), first, second), left);
}

// By its number in the vocabulary of programs; the last one is the square.
SPARSETRAIN_TARGET inline MapRun map_run_of(int64_t function) {
  constexpr MapRun kRuns[] = {
      map_run<Relu>,      map_run<Clamp>,       map_run<LeakyRelu>,  map_run<Elu>,
      map_run<Silu>,      map_run<Gelu>,        map_run<GeluTanh>,   map_run<QuickGelu>,
      map_run<Hardswish>, map_run<Hardsigmoid>, map_run<Sigmoid>,    map_run<Tanh>,
      map_run<Softplus>,  map_run<Mish>,        map_run<Exp>,        map_run<Log>,
      map_run<Sqrt>,      map_run<Rsqrt>,       map_run<Reciprocal>, map_run<Negative>,
      map_run<Absolute>,  map_run<Power>,       map_run<Erf>,        map_run<Sin>,
      map_run<Cos>,       map_run<Affine>,      map_run<Floor>,      map_run<Square>};
  return kRuns[function];
}

#undef SPARSETRAIN_FUNCTION
#undef SPARSETRAIN_INLINE
