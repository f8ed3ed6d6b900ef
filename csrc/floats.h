// Numbers of any floating dtype as the float or double that they are computed in.
//
// fp32 and fp64 are used where they lie. fp16 and bf16 are widened to a buffer and rounded back,
// to the nearest and, between two, to the even one, as PyTorch rounds them.
#pragma once
#include <cstdint>
#include <type_traits>

#include "float_bits.h"
#include "simd.h"

namespace sparsetrain {

constexpr int64_t kFloatsBlock = 1024;  // numbers handled at a time: five buffers stay in L1

// A format of buffers, and a number by itself: in arithmetic it is the float that it widens to.
struct BFloat16 {
  using Real = float;
  using Stored = uint16_t;
  uint16_t bits;
  BFloat16() = default;
  SPARSETRAIN_LOOP BFloat16(float x) : bits(narrow(x)) {}
  SPARSETRAIN_LOOP operator float() const { return widen(bits); }
  SPARSETRAIN_LOOP static float widen(uint16_t x) { return float_of(uint32_t(x) << 16); }
  SPARSETRAIN_LOOP static uint16_t narrow(float x) {
    const uint32_t bits = bits_of(x);
    const bool nan = (bits & 0x7fffffff) > 0x7f800000;
    return nan ? 0x7fc0 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  }
};

struct Half {
  using Real = float;
  using Stored = uint16_t;
  static float widen(uint16_t x) {
    return float_of(bits_of(half_magnitude(x)) | (x & 0x8000u) << 16);
  }
  // half_magnitude the other way round: adding 0.5 leaves a subnormal's bits, rounded, at the
  // bottom.
  static uint16_t narrow(float x) {
    const uint32_t sign = bits_of(x) & 0x80000000, magnitude = bits_of(x) ^ sign;
    const uint32_t subnormal = bits_of(float_of(magnitude) + 0.5f) - (126u << 23);
    const uint32_t normal = (magnitude - (112u << 23) + 0xfff + (magnitude >> 13 & 1)) >> 13;
    const uint32_t huge = magnitude > 0x7f800000 ? 0x7e00 : 0x7c00;
    const uint32_t finite = magnitude < (113u << 23) ? subnormal : normal;
    return uint16_t((magnitude < (143u << 23) ? finite : huge) | sign >> 16);
  }
};

template <typename T>
struct Native {
  using Real = T;
  using Stored = T;
};

// What numbers stored as T are computed in.
template <typename T>
using RealOf = std::conditional_t<std::is_same_v<T, BFloat16>, float, T>;

template <typename Format>
SPARSETRAIN_LOOP void widen_all(const uint16_t* __restrict x, float* __restrict out, int64_t n) {
  for (int64_t i = 0; i < n; i++) out[i] = Format::widen(x[i]);
}

template <typename Format>
SPARSETRAIN_LOOP void narrow_all(const float* __restrict x, uint16_t* __restrict out, int64_t n) {
  for (int64_t i = 0; i < n; i++) out[i] = Format::narrow(x[i]);
}

// n <= kFloatsBlock numbers at p, to be changed through `data` and then kept by store(). A null p
// has null data.
template <typename Format>
class Floats {
 public:
  Floats(void* p, int64_t begin, int64_t n)
      : at_(p ? static_cast<uint16_t*>(p) + begin : nullptr), n_(n), data(at_ ? buffer_ : nullptr) {
    if (at_) simd<widen_all<Format>>(static_cast<const uint16_t*>(at_), data, n_);
  }
  void store() {
    if (at_) simd<narrow_all<Format>>(static_cast<const float*>(data), at_, n_);
  }

 private:
  uint16_t* at_;
  int64_t n_;
  alignas(64) float buffer_[kFloatsBlock];

 public:
  float* const data;
};

template <typename T>
class Floats<Native<T>> {
 public:
  Floats(void* p, int64_t begin, int64_t) : data(p ? static_cast<T*>(p) + begin : nullptr) {}
  void store() {}
  T* const data;
};

}  // namespace sparsetrain
