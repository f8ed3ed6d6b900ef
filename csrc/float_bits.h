// A float as its bits and back, on the CPU and in device code alike.
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

SPARSETRAIN_ANYWHERE uint32_t bits_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

SPARSETRAIN_ANYWHERE float float_of(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

// |x| of an fp16 number. Scaling by 2^112 moves the exponent to where fp32 has it, Inf and NaN
// included; numbers without an exponent are built beside 0.5, which is then taken away.
SPARSETRAIN_ANYWHERE float half_magnitude(uint16_t x) {
  const uint32_t bits = uint32_t(x & 0x7fff) << 13;
  const float normal = float_of(bits + (224u << 23)) * 0x1p-112f;
  const float subnormal = float_of((x & 0x7fffu) | (126u << 23)) - 0.5f;
  return (x & 0x7fff) < 0x400 ? subnormal : normal;
}

}  // namespace sparsetrain
