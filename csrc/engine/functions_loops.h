// Functions of each number of a register, for one instruction set: see functions.h and each_isa.h.
// The polynomials are those of S. Moshier's Cephes.

#define SPARSETRAIN_INLINE SPARSETRAIN_TARGET [[gnu::always_inline]] inline

// x to the power of the number of coefficients less one, first coefficient, and so on.
template <int N>
SPARSETRAIN_INLINE Reg polynomial(Reg x, const float (&coefficient)[N]) {
  Reg sum = broadcast(coefficient[0]);
  SPARSETRAIN_UNROLL
  for (int i = 1; i < N; i++) sum = multiply_add(sum, x, broadcast(coefficient[i]));
  return sum;
}

// e^x = 2^n e^r with r at most ln(2) / 2: n, and e^r.
SPARSETRAIN_INLINE Reg power_of(Reg x) { return rounded(x * broadcast(1.44269504088896341f)); }
SPARSETRAIN_INLINE Reg exp_part(Reg x, Reg n) {
  Reg r = multiply_add(n, broadcast(-0.693359375f), x);
  r = multiply_add(n, broadcast(2.12194440e-4f), r);
  const Reg p = polynomial(r, {1.9875691500e-4f, 1.3981999507e-3f, 8.3334519073e-3f,
                               4.1665795894e-2f, 1.6666665459e-1f, 5.0000001201e-1f});
  return multiply_add(p, r * r, r) + broadcast(1);
}
// The power of two comes in halves, as denormals need it.
SPARSETRAIN_INLINE Reg exp_of(Reg x) {
  x = smaller(broadcast(89), larger(broadcast(-104), x));
  const Reg n = power_of(x), half = floored(n * broadcast(0.5f));
  return exp_part(x, n) * two_to(half) * two_to(n - half);
}

// e^x - 1, near 0 by its series.
SPARSETRAIN_INLINE Reg expm1_of(Reg x) {
  const Reg p =
      polynomial(x, {1 / 40320.f, 1 / 5040.f, 1 / 720.f, 1 / 120.f, 1 / 24.f, 1 / 6.f, 0.5f});
  const Reg near = multiply_add(p, x * x, x);
  return select(less(absolute(x), broadcast(0.5f)), near, exp_of(x) - broadcast(1));
}

// ln(mantissa) + exponent ln(2) of x > 0; of 0 -Inf, of what is below and of NaN NaN.
SPARSETRAIN_INLINE Reg log_of(Reg x) {
  const Mask denormal = less(x, broadcast(1.17549435e-38f));
  Reg exponent, m = mantissa(select(denormal, x * broadcast(8388608), x), &exponent);
  const Mask low = less(m, broadcast(0.707106781186547524f));
  exponent = exponent - select(denormal, broadcast(23), broadcast(0)) -
             select(low, broadcast(1), broadcast(0));
  m = select(low, m + m, m) - broadcast(1);
  const Reg z = m * m;
  Reg y = polynomial(m, {7.0376836292e-2f, -1.1514610310e-1f, 1.1676998740e-1f, -1.2420140846e-1f,
                         1.4249322787e-1f, -1.6668057665e-1f, 2.0000714765e-1f, -2.4999993993e-1f,
                         3.3333331174e-1f}) *
          m * z;
  y = multiply_add(exponent, broadcast(-2.12194440e-4f), y);
  y = multiply_add(z, broadcast(-0.5f), y);
  const Reg found = multiply_add(exponent, broadcast(0.693359375f), m + y);
  const Reg infinity = broadcast(INFINITY), zero = broadcast(0);
  const Reg special = select(less(x, zero), broadcast(NAN), broadcast(-INFINITY));
  return select(less(zero, x), select(less(x, infinity), found, x),
                select(equal(x, x), special, x));
}

// ln(1 + x), as exact as ln of the rounded sum times what rounding has made of x.
SPARSETRAIN_INLINE Reg log1p_of(Reg x) {
  const Reg sum = x + broadcast(1);
  const Reg far = log_of(sum) * x / (sum - broadcast(1));
  return select(equal(sum, broadcast(1)), x, far);
}

SPARSETRAIN_INLINE Reg sigmoid_of(Reg x) {
  return broadcast(1) / (broadcast(1) + exp_of(broadcast(0) - x));
}

SPARSETRAIN_INLINE Reg tanh_of(Reg x) {
  const Reg a = absolute(x), z = x * x;
  const Reg p = polynomial(z, {-5.70498872745e-3f, 2.06390887954e-2f, -5.37397155531e-2f,
                               1.33314422036e-1f, -3.33332819422e-1f});
  const Reg near = multiply_add(p * z, x, x);
  const Reg far = broadcast(1) - broadcast(2) / (exp_of(a + a) + broadcast(1));
  return select(less(a, broadcast(0.625f)), near, with_sign(far, x));
}

// x p(x^2) / q(x^2), as Eigen has it; from 4 on it is 1 to all digits.
SPARSETRAIN_INLINE Reg erf_of(Reg x) {
  const Reg four = broadcast(4), z = smaller(four * four, x * x);
  const Reg p =
      polynomial(z, {-2.72614225801306e-10f, 2.77068142495902e-08f, -2.10102402082508e-06f,
                     -5.69250639462346e-05f, -7.34990630326855e-04f, -2.95459980854025e-03f,
                     -1.60960333262415e-02f});
  const Reg q =
      polynomial(z, {-1.45660718464996e-05f, -2.13374055278905e-04f, -1.68282697438203e-03f,
                     -7.37332916720468e-03f, -1.42647390514189e-02f});
  return select(less(four, absolute(x)), with_sign(broadcast(1), x), x * p / q);
}

#undef SPARSETRAIN_INLINE
