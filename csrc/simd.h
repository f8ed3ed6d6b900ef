// One loop, compiled for several instruction sets; the machine it runs on chooses.
//
//   SPARSETRAIN_LOOP void scale(float* x, int64_t n, float by) { for (...) x[i] *= by; }
//   simd<scale>(x, n, 2.0f);
//
// The loop is plain C++ for the compiler to vectorise. It is inlined into one wrapper per
// instruction set, so nothing is built with -march=native and one binary serves every x86-64.
// Loops that intrinsics say better have one function an instruction set, marked SPARSETRAIN_AVX2 or
// SPARSETRAIN_AVX512, and switch on isa() themselves.
//
// SPARSETRAIN_ISA=default, avx2 or avx512 in the environment is the highest set used, for tests and
// for comparisons, as ATEN_CPU_CAPABILITY is for torch; what the machine lacks is never used.
#pragma once
#include <algorithm>
#include <cstdlib>
#include <string>

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define SPARSETRAIN_X86 1
#define SPARSETRAIN_LOOP [[gnu::always_inline]] inline
#elif defined(__GNUC__) || defined(__clang__)
#define SPARSETRAIN_LOOP [[gnu::always_inline]] inline
#else
#define SPARSETRAIN_LOOP inline
#endif

namespace sparsetrain {

#ifdef SPARSETRAIN_X86

#define SPARSETRAIN_AVX2 [[gnu::target("avx2,popcnt")]]
#define SPARSETRAIN_AVX512 [[gnu::target("avx512f,avx512bw,avx512dq,avx512vl,popcnt")]]

enum class Isa { kBaseline, kAvx2, kAvx512 };

inline Isa supported_isa() {
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") ||
      !__builtin_cpu_supports("popcnt"))
    return Isa::kBaseline;
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  return avx512 ? Isa::kAvx512 : Isa::kAvx2;
}

inline Isa allowed_isa() {
  const char* variable = std::getenv("SPARSETRAIN_ISA");
  const std::string highest = variable ? variable : "";
  if (highest.empty() || highest == "avx512") return Isa::kAvx512;
  return highest == "avx2" ? Isa::kAvx2 : Isa::kBaseline;
}

inline Isa isa() {
  static const Isa found = std::min(supported_isa(), allowed_isa());
  return found;
}

template <auto loop, typename... Args>
[[gnu::target("avx512f,avx512bw,avx512dq,avx512vl"), gnu::noinline]] void run_avx512(Args... args) {
  loop(args...);
}

template <auto loop, typename... Args>
[[gnu::target("avx2"), gnu::noinline]] void run_avx2(Args... args) {
  loop(args...);
}

template <auto loop, typename... Args>
void simd(Args... args) {
  switch (isa()) {
    case Isa::kAvx512:
      return run_avx512<loop>(args...);
    case Isa::kAvx2:
      return run_avx2<loop>(args...);
    default:
      return loop(args...);
  }
}

#else

template <auto loop, typename... Args>
void simd(Args... args) {
  loop(args...);
}

#endif

}  // namespace sparsetrain
