// Transposing a block that is in the cache, four by four numbers in registers.
#pragma once
#include <cstdint>

#include "../simd.h"
#ifdef SPARSETRAIN_X86
#include <immintrin.h>
#endif

namespace sparsetrain::engine {

// y[i * down + j] = x[i + j * across] for i, j < 4.
template <typename T>
inline void transpose_four(const T* x, int64_t across, T* y, int64_t down) {
#ifdef SPARSETRAIN_X86
  if constexpr (sizeof(T) == 4) {
    const auto* from = reinterpret_cast<const float*>(x);
    auto* to = reinterpret_cast<float*>(y);
    __m128 a = _mm_loadu_ps(from), b = _mm_loadu_ps(from + across);
    __m128 c = _mm_loadu_ps(from + 2 * across), d = _mm_loadu_ps(from + 3 * across);
    _MM_TRANSPOSE4_PS(a, b, c, d);
    _mm_storeu_ps(to, a), _mm_storeu_ps(to + down, b);
    _mm_storeu_ps(to + 2 * down, c), _mm_storeu_ps(to + 3 * down, d);
    return;
  }
#endif
  for (int i = 0; i < 4; i++)
    for (int j = 0; j < 4; j++) y[i * down + j] = x[i + j * across];
}

// The same for i < m and j < n.
template <typename T>
inline void transpose(const T* x, int64_t across, T* y, int64_t down, int64_t m, int64_t n) {
  const int64_t whole_m = m / 4 * 4, whole_n = n / 4 * 4;
  for (int64_t j = 0; j < whole_n; j += 4)
    for (int64_t i = 0; i < whole_m; i += 4)
      transpose_four(x + i + j * across, across, y + i * down + j, down);
  for (int64_t i = 0; i < m; i++)
    for (int64_t j = i < whole_m ? whole_n : 0; j < n; j++) y[i * down + j] = x[i + j * across];
}

}  // namespace sparsetrain::engine
