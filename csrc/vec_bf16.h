// Numbers that memory holds in bf16, in registers of floats: see vec.h, under whose namespaces
// these are.
//
// A Pair is what is cheapest to widen and to round: as many numbers as fill a register in bf16,
// those at even places and those at odd ones apart. Where so many sums do not fit the registers,
// it is one number a lane.
#pragma once
#include <algorithm>
#include <type_traits>

#include "floats.h"
#include "vec.h"

namespace sparsetrain {

namespace portable {

struct Pair {
  Reg even, odd;
};

SPARSETRAIN_LOOP Reg load_first(const BFloat16* p, int n) {
  Reg a = broadcast(0);
  for (int i = 0; i < n; i++) a.lane[i] = p[i];
  return a;
}
SPARSETRAIN_LOOP Reg load(const BFloat16* p) { return load_first(p, kWidth); }
SPARSETRAIN_LOOP void store_first(BFloat16* p, Reg a, int n) {
  for (int i = 0; i < n; i++) p[i] = a.lane[i];
}
SPARSETRAIN_LOOP void store(BFloat16* p, Reg a) { store_first(p, a, kWidth); }
SPARSETRAIN_LOOP Pair load_pair_first(const BFloat16* p, int n) {
  Pair a = {broadcast(0), broadcast(0)};
  for (int i = 0; i < n; i++) (i % 2 ? a.odd : a.even).lane[i / 2] = p[i];
  return a;
}
SPARSETRAIN_LOOP Pair load_pair(const BFloat16* p) { return load_pair_first(p, 2 * kWidth); }
SPARSETRAIN_LOOP void store_first(BFloat16* p, Pair a, int n) {
  for (int i = 0; i < n; i++) p[i] = (i % 2 ? a.odd : a.even).lane[i / 2];
}
SPARSETRAIN_LOOP void store(BFloat16* p, Pair a) { store_first(p, a, 2 * kWidth); }

}  // namespace portable

#ifdef SPARSETRAIN_X86

namespace avx2 {

struct Pair {
  Reg even, odd;
};

#define SPARSETRAIN_INLINE SPARSETRAIN_FMA_AVX2 [[gnu::always_inline]] inline
SPARSETRAIN_INLINE __m256i bits_of(const BFloat16* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}
// Two numbers a lane, and where n is odd the last beside them.
SPARSETRAIN_INLINE __m256i bits_of_first(const BFloat16* p, int n) {
  const __m256i pairs = _mm256_maskload_epi32(reinterpret_cast<const int*>(p), first(n / 2));
  if (n % 2 == 0) return pairs;
  const __m256i lane = _mm256_xor_si256(first(n / 2 + 1), first(n / 2));
  return _mm256_or_si256(pairs, _mm256_and_si256(_mm256_set1_epi32(p[n - 1].bits), lane));
}
SPARSETRAIN_INLINE Reg widened(__m128i bits) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
SPARSETRAIN_INLINE Pair pair_of(__m256i bits) {
  const __m256i upper = _mm256_set1_epi32(int(0xffff0000));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(bits, 16)),
          _mm256_castsi256_ps(_mm256_and_si256(bits, upper))};
}
// BFloat16::narrow in the upper half of each lane.
SPARSETRAIN_INLINE __m256i rounded(Reg a) {
  const __m256i bits = _mm256_castps_si256(a);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i sum = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q));
  return _mm256_blendv_epi8(sum, _mm256_set1_epi32(0x7fc00000), nan);
}
SPARSETRAIN_INLINE __m128i narrowed(Reg a) {
  const __m256i low = _mm256_srli_epi32(rounded(a), 16);
  return _mm_packus_epi32(_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1));
}
SPARSETRAIN_INLINE __m256i narrowed(Pair a) {
  return _mm256_blend_epi16(_mm256_srli_epi32(rounded(a.even), 16), rounded(a.odd), 0xaa);
}

SPARSETRAIN_INLINE Reg load(const BFloat16* p) {
  return widened(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
SPARSETRAIN_INLINE Reg load_first(const BFloat16* p, int n) {
  return widened(_mm256_castsi256_si128(bits_of_first(p, n)));
}
SPARSETRAIN_INLINE void store(BFloat16* p, Reg a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), narrowed(a));
}
SPARSETRAIN_INLINE void store_first(BFloat16* p, Reg a, int n) {
  BFloat16 all[kWidth];
  store(all, a);
  for (int i = 0; i < n; i++) p[i] = all[i];
}
SPARSETRAIN_INLINE Pair load_pair(const BFloat16* p) { return pair_of(bits_of(p)); }
SPARSETRAIN_INLINE Pair load_pair_first(const BFloat16* p, int n) {
  return pair_of(bits_of_first(p, n));
}
SPARSETRAIN_INLINE void store(BFloat16* p, Pair a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrowed(a));
}
SPARSETRAIN_INLINE void store_first(BFloat16* p, Pair a, int n) {
  BFloat16 all[2 * kWidth];
  store(all, a);
  for (int i = 0; i < n; i++) p[i] = all[i];
}
#undef SPARSETRAIN_INLINE

}  // namespace avx2

namespace avx512 {

struct Pair {
  Reg even, odd;
};

#define SPARSETRAIN_INLINE SPARSETRAIN_FMA_AVX512 [[gnu::always_inline]] inline
SPARSETRAIN_INLINE __mmask32 first_of_pair(int n) { return __mmask32((uint64_t(1) << n) - 1); }
SPARSETRAIN_INLINE Reg widened(__m256i bits) {
  const __m512i lanes = _mm512_maskz_cvtepu16_epi32(0xffff, bits);
  return _mm512_castsi512_ps(_mm512_maskz_slli_epi32(0xffff, lanes, 16));
}
SPARSETRAIN_INLINE Pair pair_of(__m512i bits) {
  const __m512i upper = _mm512_set1_epi32(int(0xffff0000));
  return {_mm512_castsi512_ps(_mm512_maskz_slli_epi32(0xffff, bits, 16)),
          _mm512_castsi512_ps(_mm512_and_si512(bits, upper))};
}
SPARSETRAIN_INLINE __m512i lower(__m512i bits) { return _mm512_maskz_srli_epi32(0xffff, bits, 16); }
// BFloat16::narrow in the upper half of each lane.
SPARSETRAIN_INLINE __m512i rounded(Reg a) {
  const __m512i bits = _mm512_castps_si512(a);
  const __m512i odd = _mm512_and_si512(lower(bits), _mm512_set1_epi32(1));
  const __m512i sum = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __mmask16 nan = _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q);
  return _mm512_mask_mov_epi32(sum, nan, _mm512_set1_epi32(0x7fc00000));
}
SPARSETRAIN_INLINE __m256i narrowed(Reg a) {
  return _mm512_maskz_cvtepi32_epi16(0xffff, lower(rounded(a)));
}
SPARSETRAIN_INLINE __m512i narrowed(Pair a) {
  return _mm512_mask_mov_epi16(lower(rounded(a.even)), 0xaaaaaaaa, rounded(a.odd));
}

SPARSETRAIN_INLINE Reg load(const BFloat16* p) {
  return widened(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
SPARSETRAIN_INLINE Reg load_first(const BFloat16* p, int n) {
  return widened(_mm256_maskz_loadu_epi16(first(n), p));
}
SPARSETRAIN_INLINE void store(BFloat16* p, Reg a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrowed(a));
}
SPARSETRAIN_INLINE void store_first(BFloat16* p, Reg a, int n) {
  _mm256_mask_storeu_epi16(p, first(n), narrowed(a));
}
SPARSETRAIN_INLINE Pair load_pair(const BFloat16* p) { return pair_of(_mm512_loadu_si512(p)); }
SPARSETRAIN_INLINE Pair load_pair_first(const BFloat16* p, int n) {
  return pair_of(_mm512_maskz_loadu_epi16(first_of_pair(n), p));
}
SPARSETRAIN_INLINE void store(BFloat16* p, Pair a) { _mm512_storeu_si512(p, narrowed(a)); }
SPARSETRAIN_INLINE void store_first(BFloat16* p, Pair a, int n) {
  _mm512_mask_storeu_epi16(p, first_of_pair(n), narrowed(a));
}
#undef SPARSETRAIN_INLINE

}  // namespace avx512

#endif

}  // namespace sparsetrain

#define SPARSETRAIN_LOOPS "vec_of.h"
#include "each_isa.h"
