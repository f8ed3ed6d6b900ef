// More of what a register of vec.h can do, of each instruction set under the same names: what
// functions of numbers are made of. Registers of AVX have operators + - * / of the compiler's.
#pragma once
#include <cmath>
#include <cstring>

#include "../vec.h"

// The one function of three that the machine runs.
#ifdef SPARSETRAIN_X86
#define SPARSETRAIN_BEST(function)                                                       \
  (::sparsetrain::isa() == ::sparsetrain::Isa::kAvx512 ? ::sparsetrain::avx512::function \
   : ::sparsetrain::isa() == ::sparsetrain::Isa::kAvx2 ? ::sparsetrain::avx2::function   \
                                                       : ::sparsetrain::portable::function)
#else
#define SPARSETRAIN_BEST(function) (::sparsetrain::portable::function)
#endif

namespace sparsetrain {
namespace portable {

struct Mask {
  bool lane[kWidth];
};

template <typename F>
SPARSETRAIN_LOOP Reg each_lane(const F& f) {
  Reg c;
  for (int i = 0; i < kWidth; i++) c.lane[i] = f(i);
  return c;
}
SPARSETRAIN_LOOP Reg operator+(Reg a, Reg b) {
  return each_lane([&](int i) { return a.lane[i] + b.lane[i]; });
}
SPARSETRAIN_LOOP Reg operator-(Reg a, Reg b) {
  return each_lane([&](int i) { return a.lane[i] - b.lane[i]; });
}
SPARSETRAIN_LOOP Reg operator*(Reg a, Reg b) {
  return each_lane([&](int i) { return a.lane[i] * b.lane[i]; });
}
SPARSETRAIN_LOOP Reg operator/(Reg a, Reg b) {
  return each_lane([&](int i) { return a.lane[i] / b.lane[i]; });
}
// False of NaN.
SPARSETRAIN_LOOP Mask less(Reg a, Reg b) {
  Mask m;
  for (int i = 0; i < kWidth; i++) m.lane[i] = a.lane[i] < b.lane[i];
  return m;
}
SPARSETRAIN_LOOP Mask equal(Reg a, Reg b) {
  Mask m;
  for (int i = 0; i < kWidth; i++) m.lane[i] = a.lane[i] == b.lane[i];
  return m;
}
// m ? a : b
SPARSETRAIN_LOOP Reg select(Mask m, Reg a, Reg b) {
  return each_lane([&](int i) { return m.lane[i] ? a.lane[i] : b.lane[i]; });
}
// The smaller and the larger of both; b where one of them is NaN.
SPARSETRAIN_LOOP Reg smaller(Reg a, Reg b) { return select(less(a, b), a, b); }
SPARSETRAIN_LOOP Reg larger(Reg a, Reg b) { return select(less(b, a), a, b); }
SPARSETRAIN_LOOP Reg square_root(Reg a) {
  return each_lane([&](int i) { return std::sqrt(a.lane[i]); });
}
SPARSETRAIN_LOOP Reg rounded(Reg a) {  // ties to even
  return each_lane([&](int i) { return std::nearbyint(a.lane[i]); });
}
SPARSETRAIN_LOOP Reg floored(Reg a) {
  return each_lane([&](int i) { return std::floor(a.lane[i]); });
}
SPARSETRAIN_LOOP Reg absolute(Reg a) {
  return each_lane([&](int i) { return std::fabs(a.lane[i]); });
}
// a with the sign of s.
SPARSETRAIN_LOOP Reg with_sign(Reg a, Reg s) {
  return each_lane([&](int i) { return std::copysign(a.lane[i], s.lane[i]); });
}
// 2^n of whole n from -126 to 127; NaN gives any number.
SPARSETRAIN_LOOP Reg two_to(Reg n) {
  return each_lane([&](int i) {
    const int32_t bits = n.lane[i] == n.lane[i] ? (int32_t(n.lane[i]) + 127) << 23 : 0;
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
  });
}
// a = mantissa * 2^exponent with a mantissa from 0.5 to 1, of positive a that are not denormal.
SPARSETRAIN_LOOP Reg mantissa(Reg a, Reg* exponent) {
  Reg m;
  for (int i = 0; i < kWidth; i++) {
    int32_t bits;
    std::memcpy(&bits, &a.lane[i], sizeof bits);
    exponent->lane[i] = float((bits >> 23) - 126);
    bits = (bits & 0x7fffff) | 0x3f000000;
    std::memcpy(&m.lane[i], &bits, sizeof bits);
  }
  return m;
}

}  // namespace portable

#ifdef SPARSETRAIN_X86
namespace avx2 {

using Mask = __m256;

#define SPARSETRAIN_INLINE SPARSETRAIN_FMA_AVX2 [[gnu::always_inline]] inline
SPARSETRAIN_INLINE Mask less(Reg a, Reg b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
SPARSETRAIN_INLINE Mask equal(Reg a, Reg b) { return _mm256_cmp_ps(a, b, _CMP_EQ_OQ); }
SPARSETRAIN_INLINE Reg select(Mask m, Reg a, Reg b) { return _mm256_blendv_ps(b, a, m); }
SPARSETRAIN_INLINE Reg smaller(Reg a, Reg b) { return _mm256_min_ps(a, b); }
SPARSETRAIN_INLINE Reg larger(Reg a, Reg b) { return _mm256_max_ps(a, b); }
SPARSETRAIN_INLINE Reg square_root(Reg a) { return _mm256_sqrt_ps(a); }
SPARSETRAIN_INLINE Reg rounded(Reg a) {
  return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
SPARSETRAIN_INLINE Reg floored(Reg a) { return _mm256_floor_ps(a); }
SPARSETRAIN_INLINE Reg absolute(Reg a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
SPARSETRAIN_INLINE Reg with_sign(Reg a, Reg s) {
  return _mm256_or_ps(absolute(a), _mm256_and_ps(_mm256_set1_ps(-0.0f), s));
}
SPARSETRAIN_INLINE Reg two_to(Reg n) {
  const __m256i whole = _mm256_cvtps_epi32(n);
  return _mm256_castsi256_ps(
      _mm256_slli_epi32(_mm256_add_epi32(whole, _mm256_set1_epi32(127)), 23));
}
SPARSETRAIN_INLINE Reg mantissa(Reg a, Reg* exponent) {
  const __m256i bits = _mm256_castps_si256(a);
  *exponent =
      _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_srai_epi32(bits, 23), _mm256_set1_epi32(126)));
  const __m256i low = _mm256_and_si256(bits, _mm256_set1_epi32(0x7fffff));
  return _mm256_castsi256_ps(_mm256_or_si256(low, _mm256_set1_epi32(0x3f000000)));
}
#undef SPARSETRAIN_INLINE

}  // namespace avx2

namespace avx512 {

using Mask = __mmask16;

// The masked forms: gcc takes the others' unused sources for uninitialised.
#define SPARSETRAIN_INLINE SPARSETRAIN_FMA_AVX512 [[gnu::always_inline]] inline
SPARSETRAIN_INLINE Mask less(Reg a, Reg b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
SPARSETRAIN_INLINE Mask equal(Reg a, Reg b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
SPARSETRAIN_INLINE Reg select(Mask m, Reg a, Reg b) { return _mm512_mask_blend_ps(m, b, a); }
SPARSETRAIN_INLINE Reg smaller(Reg a, Reg b) { return _mm512_maskz_min_ps(0xffff, a, b); }
SPARSETRAIN_INLINE Reg larger(Reg a, Reg b) { return _mm512_maskz_max_ps(0xffff, a, b); }
SPARSETRAIN_INLINE Reg square_root(Reg a) { return _mm512_maskz_sqrt_ps(0xffff, a); }
SPARSETRAIN_INLINE Reg rounded(Reg a) {
  return _mm512_maskz_roundscale_ps(0xffff, a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
SPARSETRAIN_INLINE Reg floored(Reg a) {
  return _mm512_maskz_roundscale_ps(0xffff, a, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
}
SPARSETRAIN_INLINE Reg absolute(Reg a) {
  return _mm512_castsi512_ps(
      _mm512_and_si512(_mm512_castps_si512(a), _mm512_set1_epi32(0x7fffffff)));
}
SPARSETRAIN_INLINE Reg with_sign(Reg a, Reg s) {
  const __m512i sign = _mm512_and_si512(_mm512_castps_si512(s), _mm512_set1_epi32(INT32_MIN));
  return _mm512_castsi512_ps(_mm512_or_si512(_mm512_castps_si512(absolute(a)), sign));
}
SPARSETRAIN_INLINE Reg two_to(Reg n) {
  const __m512i whole = _mm512_maskz_cvtps_epi32(0xffff, n);
  const __m512i biased = _mm512_add_epi32(whole, _mm512_set1_epi32(127));
  return _mm512_castsi512_ps(_mm512_maskz_slli_epi32(0xffff, biased, 23));
}
SPARSETRAIN_INLINE Reg mantissa(Reg a, Reg* exponent) {
  const __m512i bits = _mm512_castps_si512(a);
  const __m512i high = _mm512_maskz_srai_epi32(0xffff, bits, 23);
  *exponent = _mm512_maskz_cvtepi32_ps(0xffff, _mm512_sub_epi32(high, _mm512_set1_epi32(126)));
  const __m512i low = _mm512_and_si512(bits, _mm512_set1_epi32(0x7fffff));
  return _mm512_castsi512_ps(_mm512_or_si512(low, _mm512_set1_epi32(0x3f000000)));
}
#undef SPARSETRAIN_INLINE

}  // namespace avx512
#endif

}  // namespace sparsetrain
