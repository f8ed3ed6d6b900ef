// One loop, compiled for several instruction sets; the machine it runs on chooses.
//
//   SPARSETRAIN_LOOP void scale(float* x, int64_t n, float by) { for (...) x[i] *= by; }
//   simd<scale>(x, n, 2.0f);
//
// The loop is plain C++ for the compiler to vectorise. It is inlined into one wrapper per
// instruction set, so nothing is built with -march=native and one binary serves every x86-64.
#pragma once

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

enum class Isa { kBaseline, kAvx2, kAvx512 };

inline Isa isa() {
  static const Isa found = [] {
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
      return Isa::kAvx512;
    return __builtin_cpu_supports("avx2") ? Isa::kAvx2 : Isa::kBaseline;
  }();
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
