// One score as an integer that sorts like it, on the CPU and in device code alike.
//
// A non-negative fp32 score keeps its order when its bits are read as a uint32, Inf above all
// numbers and NaN above Inf. Each operation rounds once: host code is built without contraction
// (-ffp-contract=off), device code names its rounding. So all machines find the same keys.
#pragma once
#include <cstdint>

#include "float_bits.h"

namespace sparsetrain {

constexpr uint32_t kInfinity = 0x7f800000;     // keys above it, below kNoCandidate, are NaN
constexpr uint32_t kNoCandidate = 0x80000000;  // the key of an entry that may not be kept

enum class Dtype { kFloat, kDouble, kBFloat16, kHalf };
enum class ScoreKind { kMagnitude, kSnip, kGradient, kBlend };  // in the order of SCORES in Python

struct Score {
  ScoreKind kind;
  float alpha, beta, gamma;
};

// The bits of |x|.
SPARSETRAIN_ANYWHERE uint32_t as_key(float x) { return bits_of(x) & 0x7fffffff; }

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

SPARSETRAIN_ANYWHERE uint32_t snip_key(float w, float g) { return as_key(product(w, g)); }

SPARSETRAIN_ANYWHERE uint32_t blend_key(float w, float g, float alpha, float beta, float gamma) {
  const float magnitude = float_of(as_key(w));
  const float snip = float_of(snip_key(w, g));
  const float gradient = float_of(as_key(g));
  return as_key(sum(sum(product(alpha, magnitude), product(beta, snip)), product(gamma, gradient)));
}

}  // namespace sparsetrain
