// Scores as integers that sort like them (keys.h), for topk_mask on the CPU: block by block, by
// whatever instructions the machine has. What a score is: sparsetrain/ops/topk_mask.py.
#pragma once
#include <cstdint>

#include "keys.h"
#include "simd.h"

namespace sparsetrain {

constexpr int64_t kBlock = 1024;  // keys made at a time: in L1 with their inputs

struct ScoreInput {
  const void* weight;  // [numel] dtype
  const void* grad;    // [numel] dtype, null where the score does not need it
  const bool* within;  // [numel], null where every entry is a candidate
  Dtype dtype;
};

SPARSETRAIN_LOOP void narrow_double(const double* x, float* out, int64_t n) {
  for (int64_t i = 0; i < n; i++) out[i] = static_cast<float>(x[i]);
}

SPARSETRAIN_LOOP void widen_bfloat16(const uint16_t* x, float* out, int64_t n) {
  for (int64_t i = 0; i < n; i++) out[i] = float_of(uint32_t(x[i]) << 16);
}

SPARSETRAIN_LOOP void widen_half(const uint16_t* x, float* out, int64_t n) {
  for (int64_t i = 0; i < n; i++) out[i] = half_magnitude(x[i]);
}

// x[begin : begin + n] as floats, up to the sign: in place where it is fp32, else in buffer.
inline const float* floats(const void* x, Dtype dtype, int64_t begin, int64_t n, float* buffer) {
  switch (dtype) {
    case Dtype::kFloat:
      return static_cast<const float*>(x) + begin;
    case Dtype::kDouble:
      simd<narrow_double>(static_cast<const double*>(x) + begin, buffer, n);
      return buffer;
    case Dtype::kBFloat16:
      simd<widen_bfloat16>(static_cast<const uint16_t*>(x) + begin, buffer, n);
      return buffer;
    case Dtype::kHalf:
      simd<widen_half>(static_cast<const uint16_t*>(x) + begin, buffer, n);
      return buffer;
  }
  return buffer;
}

SPARSETRAIN_LOOP void magnitude_keys(const float* x, uint32_t* key, int64_t n) {
  for (int64_t i = 0; i < n; i++) key[i] = as_key(x[i]);
}

SPARSETRAIN_LOOP void snip_keys(const float* w, const float* g, uint32_t* key, int64_t n) {
  for (int64_t i = 0; i < n; i++) key[i] = snip_key(w[i], g[i]);
}

SPARSETRAIN_LOOP void blend_keys(const float* w, const float* g, uint32_t* key, int64_t n,
                                 float alpha, float beta, float gamma) {
  for (int64_t i = 0; i < n; i++) key[i] = blend_key(w[i], g[i], alpha, beta, gamma);
}

SPARSETRAIN_LOOP void exclude(const bool* within, uint32_t* key, int64_t n) {
  const auto* candidate = reinterpret_cast<const uint8_t*>(within);
  for (int64_t i = 0; i < n; i++) key[i] = candidate[i] ? key[i] : kNoCandidate;
}

// The keys of entries [begin, begin + n), n <= kBlock.
inline void score_keys(const ScoreInput& in, const Score& score, int64_t begin, int64_t n,
                       uint32_t* keys) {
  alignas(64) float w_buffer[kBlock], g_buffer[kBlock];
  const float *w = nullptr, *g = nullptr;
  if (score.kind != ScoreKind::kGradient) w = floats(in.weight, in.dtype, begin, n, w_buffer);
  if (score.kind != ScoreKind::kMagnitude) g = floats(in.grad, in.dtype, begin, n, g_buffer);
  switch (score.kind) {
    case ScoreKind::kMagnitude:
      simd<magnitude_keys>(w, keys, n);
      break;
    case ScoreKind::kSnip:
      simd<snip_keys>(w, g, keys, n);
      break;
    case ScoreKind::kGradient:
      simd<magnitude_keys>(g, keys, n);
      break;
    case ScoreKind::kBlend:
      simd<blend_keys>(w, g, keys, n, score.alpha, score.beta, score.gamma);
      break;
  }
  if (in.within) simd<exclude>(in.within + begin, keys, n);
}

}  // namespace sparsetrain
