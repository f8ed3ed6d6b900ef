// One score as an integer that sorts like it, on the CPU and in device code alike.
//
// A non-negative fp32 score keeps its order when its bits are read as a uint32, Inf above all
// numbers and NaN above Inf. Each operation rounds once: host code is built without contraction
// (-ffp-contract=off), device code names its rounding. So all machines find the same keys.
#pragma once
#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define SPARSETRAIN_ANYWHERE __host__ __device__ __forceinline__
#elif defined(__GNUC__) || defined(__clang__)
#define SPARSETRAIN_ANYWHERE [[gnu::always_inline]] inline
#else
#define SPARSETRAIN_ANYWHERE inline
#endif

namespace sparsetrain {

constexpr uint32_t kInfinity = 0x7f800000;     // keys above it, below kNoCandidate, are NaN
constexpr uint32_t kNoCandidate = 0x80000000;  // the key of an entry that may not be kept

enum class Dtype { kFloat, kDouble, kBFloat16, kHalf };
enum class ScoreKind { kMagnitude, kSnip, kGradient, kBlend };  // in the order of SCORES in Python

struct Score {
  ScoreKind kind;
  float alpha, beta, gamma;
};

SPARSETRAIN_ANYWHERE float as_float(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

// The bits of |x|.
SPARSETRAIN_ANYWHERE uint32_t as_key(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits & 0x7fffffff;
}

SPARSETRAIN_ANYWHERE float product(float a, float b) {
#ifdef __CUDA_ARCH__
  return __fmul_rn(a, b);
#else
  return a * b;
#endif
}

SPARSETRAIN_ANYWHERE float sum(float a, float b) {
#ifdef __CUDA_ARCH__
  return __fadd_rn(a, b);
#else
  return a + b;
#endif
}

// |x| of an fp16 number. Scaling by 2^112 moves the exponent to where fp32 has it, Inf and NaN
// included; numbers without an exponent are built beside 0.5, which is then taken away.
SPARSETRAIN_ANYWHERE float half_magnitude(uint16_t x) {
  const uint32_t bits = uint32_t(x & 0x7fff) << 13;
  const float normal = as_float(bits + (224u << 23)) * 0x1p-112f;
  const float subnormal = as_float((x & 0x7fffu) | (126u << 23)) - 0.5f;
  return (x & 0x7fff) < 0x400 ? subnormal : normal;
}

SPARSETRAIN_ANYWHERE uint32_t snip_key(float w, float g) { return as_key(product(w, g)); }

SPARSETRAIN_ANYWHERE uint32_t blend_key(float w, float g, float alpha, float beta, float gamma) {
  const float magnitude = as_float(as_key(w));
  const float snip = as_float(snip_key(w, g));
  const float gradient = as_float(as_key(g));
  return as_key(sum(sum(product(alpha, magnitude), product(beta, snip)), product(gamma, gradient)));
}

}  // namespace sparsetrain
