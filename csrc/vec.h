// A register of floats, of each instruction set, under the same names: for loops whose speed lies
// in what stays in which register.
//
// Such a loop is a file of its own, without includes and without namespace, whose functions are
// marked SPARSETRAIN_TARGET and use Reg, kWidth, kRegisters and the functions below.
// each_isa.h compiles it for every instruction set.
#pragma once
#include <algorithm>
#include <cstdint>

#include "simd.h"

#ifdef SPARSETRAIN_X86
#include <immintrin.h>

#define SPARSETRAIN_FMA_AVX2 [[gnu::target("avx2,fma")]]
#define SPARSETRAIN_FMA_AVX512 [[gnu::target("avx512f,avx512bw,avx512dq,avx512vl,fma")]]
#endif

// Before a loop over registers, whose count is a constant.
#if defined(__GNUC__) || defined(__clang__)
#define SPARSETRAIN_UNROLL _Pragma("GCC unroll 32")
#else
#define SPARSETRAIN_UNROLL
#endif

namespace sparsetrain {

// Asks for the cache line of p, near enough to be there when its turn comes; p may be anywhere.
SPARSETRAIN_LOOP void prefetch(const void* p) {
#if defined(__GNUC__) || defined(__clang__)
  __builtin_prefetch(p, 0, 2);
#endif
}

#ifndef SPARSETRAIN_X86
enum class Isa { kBaseline };
inline Isa isa() { return Isa::kBaseline; }
#endif

namespace portable {

constexpr int kWidth = 4, kRegisters = 16;
struct Reg {
  float lane[kWidth];
};

SPARSETRAIN_LOOP Reg broadcast(float x) { return {{x, x, x, x}}; }
SPARSETRAIN_LOOP Reg load(const float* p) { return {{p[0], p[1], p[2], p[3]}}; }
SPARSETRAIN_LOOP void store(float* p, Reg a) {
  for (int i = 0; i < kWidth; i++) p[i] = a.lane[i];
}
// The first n lanes only, 0 <= n <= kWidth; the others are zero and memory behind is not touched.
SPARSETRAIN_LOOP Reg load_first(const float* p, int n) {
  Reg a = broadcast(0);
  for (int i = 0; i < n; i++) a.lane[i] = p[i];
  return a;
}
SPARSETRAIN_LOOP void store_first(float* p, Reg a, int n) {
  for (int i = 0; i < n; i++) p[i] = a.lane[i];
}
SPARSETRAIN_LOOP Reg add(Reg a, Reg b) {
  for (int i = 0; i < kWidth; i++) a.lane[i] += b.lane[i];
  return a;
}
// Lane i is x[offset[i / V]].
template <int V>
SPARSETRAIN_LOOP Reg each(const float* x, const int32_t* offset) {
  Reg a;
  for (int i = 0; i < kWidth; i++) a.lane[i] = x[offset[i / V]];
  return a;
}
// a * b + c
SPARSETRAIN_LOOP Reg multiply_add(Reg a, Reg b, Reg c) {
  for (int i = 0; i < kWidth; i++) c.lane[i] += a.lane[i] * b.lane[i];
  return c;
}
// NaN stays NaN, as in torch.relu.
SPARSETRAIN_LOOP Reg relu(Reg a) {
  for (int i = 0; i < kWidth; i++) a.lane[i] = a.lane[i] < 0 ? 0 : a.lane[i];
  return a;
}
// The lesser one; NaN in b stays NaN.
SPARSETRAIN_LOOP Reg least(Reg a, Reg b) {
  for (int i = 0; i < kWidth; i++) b.lane[i] = a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i];
  return b;
}
// sum[j] += the sum of a[j]'s lanes, for 4 registers.
SPARSETRAIN_LOOP void add_sums(const Reg* a, float* sum) {
  for (int j = 0; j < 4; j++)
    sum[j] += (a[j].lane[0] + a[j].lane[1]) + (a[j].lane[2] + a[j].lane[3]);
}

}  // namespace portable

#ifdef SPARSETRAIN_X86

namespace avx2 {

constexpr int kWidth = 8, kRegisters = 16;
using Reg = __m256;

// Lane i is set for i < n: a window of this table.
alignas(32) inline constexpr int32_t kFirst[16] = {-1, -1, -1, -1, -1, -1, -1, -1};

#define SPARSETRAIN_INLINE SPARSETRAIN_FMA_AVX2 [[gnu::always_inline]] inline
SPARSETRAIN_INLINE Reg broadcast(float x) { return _mm256_set1_ps(x); }
SPARSETRAIN_INLINE Reg load(const float* p) { return _mm256_loadu_ps(p); }
SPARSETRAIN_INLINE void store(float* p, Reg a) { _mm256_storeu_ps(p, a); }
SPARSETRAIN_INLINE __m256i first(int n) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(kFirst + 8 - n));
}
SPARSETRAIN_INLINE Reg load_first(const float* p, int n) { return _mm256_maskload_ps(p, first(n)); }
SPARSETRAIN_INLINE void store_first(float* p, Reg a, int n) { _mm256_maskstore_ps(p, first(n), a); }
SPARSETRAIN_INLINE Reg add(Reg a, Reg b) { return _mm256_add_ps(a, b); }
SPARSETRAIN_INLINE Reg multiply_add(Reg a, Reg b, Reg c) { return _mm256_fmadd_ps(a, b, c); }
template <int V>
SPARSETRAIN_INLINE __m128 each_of_four(const float* x, const int32_t* offset) {
  if constexpr (V >= 4) return _mm_broadcast_ss(x + offset[0]);
  const __m128 a = _mm_load_ss(x + offset[0]), c = _mm_load_ss(x + offset[2]);
  const __m128 ab = _mm_insert_ps(a, _mm_load_ss(x + offset[1]), 0x10);
  const __m128 cd = _mm_insert_ps(c, _mm_load_ss(x + offset[3]), 0x10);
  return _mm_movelh_ps(ab, cd);
}
template <int V>
SPARSETRAIN_INLINE Reg each(const float* x, const int32_t* offset) {
  if constexpr (V >= kWidth) return broadcast(x[offset[0]]);
  const __m128 low = each_of_four<V>(x, offset), high = each_of_four<V>(x, offset + 4 / V);
  return _mm256_insertf128_ps(_mm256_castps128_ps256(low), high, 1);
}
SPARSETRAIN_INLINE Reg relu(Reg a) { return _mm256_max_ps(_mm256_setzero_ps(), a); }
SPARSETRAIN_INLINE Reg least(Reg a, Reg b) { return _mm256_min_ps(a, b); }
SPARSETRAIN_INLINE void add_sums(const Reg* a, float* sum) {
  const Reg pairs = _mm256_hadd_ps(_mm256_hadd_ps(a[0], a[1]), _mm256_hadd_ps(a[2], a[3]));
  const __m128 sums = _mm_add_ps(_mm256_castps256_ps128(pairs), _mm256_extractf128_ps(pairs, 1));
  _mm_storeu_ps(sum, _mm_add_ps(_mm_loadu_ps(sum), sums));
}
#undef SPARSETRAIN_INLINE

}  // namespace avx2

namespace avx512 {

constexpr int kWidth = 16, kRegisters = 32;
using Reg = __m512;

#define SPARSETRAIN_INLINE SPARSETRAIN_FMA_AVX512 [[gnu::always_inline]] inline
SPARSETRAIN_INLINE Reg broadcast(float x) { return _mm512_set1_ps(x); }
SPARSETRAIN_INLINE Reg load(const float* p) { return _mm512_loadu_ps(p); }
SPARSETRAIN_INLINE void store(float* p, Reg a) { _mm512_storeu_ps(p, a); }
SPARSETRAIN_INLINE __mmask16 first(int n) { return __mmask16((1u << n) - 1); }
SPARSETRAIN_INLINE Reg load_first(const float* p, int n) {
  return _mm512_maskz_loadu_ps(first(n), p);
}
SPARSETRAIN_INLINE void store_first(float* p, Reg a, int n) {
  _mm512_mask_storeu_ps(p, first(n), a);
}
SPARSETRAIN_INLINE Reg add(Reg a, Reg b) { return _mm512_add_ps(a, b); }
SPARSETRAIN_INLINE Reg multiply_add(Reg a, Reg b, Reg c) { return _mm512_fmadd_ps(a, b, c); }
template <int V>
SPARSETRAIN_INLINE Reg each(const float* x, const int32_t* offset) {
  if constexpr (V >= kWidth) return broadcast(x[offset[0]]);
  const __m256 low = avx2::each<V>(x, offset), high = avx2::each<V>(x, offset + 8 / V);
  return _mm512_maskz_insertf32x8(0xffff, _mm512_castps256_ps512(low), high, 1);
}
// The masked forms: gcc takes the others' unused sources for uninitialised.
SPARSETRAIN_INLINE Reg relu(Reg a) { return _mm512_maskz_max_ps(0xffff, _mm512_setzero_ps(), a); }
SPARSETRAIN_INLINE Reg least(Reg a, Reg b) { return _mm512_maskz_min_ps(0xffff, a, b); }
SPARSETRAIN_INLINE __m256 halves(Reg a) {
  return _mm256_add_ps(_mm512_maskz_extractf32x8_ps(0xff, a, 0),
                       _mm512_maskz_extractf32x8_ps(0xff, a, 1));
}
SPARSETRAIN_INLINE void add_sums(const Reg* a, float* sum) {
  const __m256 pairs = _mm256_hadd_ps(_mm256_hadd_ps(halves(a[0]), halves(a[1])),
                                      _mm256_hadd_ps(halves(a[2]), halves(a[3])));
  const __m128 sums = _mm_add_ps(_mm256_castps256_ps128(pairs), _mm256_extractf128_ps(pairs, 1));
  _mm_storeu_ps(sum, _mm_add_ps(_mm_loadu_ps(sum), sums));
}
#undef SPARSETRAIN_INLINE

}  // namespace avx512

#endif

}  // namespace sparsetrain
