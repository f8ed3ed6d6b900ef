// The one pass of topk_mask over a tile: its mask where the bracket decides, and the rest packed.
//
//   key > hi        kept, and counted           keys are signed here, so that
//   lo <= key <= hi not kept for now; packed    kNoCandidate is the lowest
//
// Limited by memory: fp32 |w| and |w * g| are read straight from the tensors, other scores as keys
// that were just made in L1. The AVX2 and AVX-512 loops take 32 and 64 scores a turn; few turns
// meet a score in the bracket, so packing stands behind a branch.
#pragma once
#include <array>
#include <cstdint>

#ifdef __x86_64__
#include <immintrin.h>
#endif

#include "segments.h"

namespace sparsetrain {

struct Bracket {
  int32_t lo, hi;
};

// What a tile has in the bracket, in order. The vector loops write up to 16 beyond the last.
struct Found {
  int64_t count = 0, above = 0;
  int32_t top = INT32_MIN;  // the largest key; above kInfinity there is a NaN
  uint32_t keys[kTile + 16];
  uint16_t at[kTile + 16];  // in the tile

  void add(int32_t key, int64_t position, bool in) {  // without a branch
    keys[count] = uint32_t(key);
    at[count] = uint16_t(position);
    count += in;
  }
};

constexpr int64_t kAhead = 1024;  // floats, a page: the hardware stops at each, and this does not

// Asks for the cache line of x[i], which may lie anywhere.
inline void fetch_line(const float* x, int64_t i) {
#ifdef SPARSETRAIN_X86
  const auto there = reinterpret_cast<uintptr_t>(x) + sizeof(float) * uintptr_t(i);
  _mm_prefetch(reinterpret_cast<const char*>(there), _MM_HINT_T0);
#endif
}

// Sources of keys. fetch(i) asks for the 16 from the i-th on, which may lie behind the last.
struct KeysInL1 {
  const uint32_t* x;

  void fetch(int64_t) const {}
  int32_t key(int64_t i) const { return int32_t(x[i]); }
#ifdef SPARSETRAIN_X86
  SPARSETRAIN_AVX2 __m256i key8(int64_t i) const {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + i));
  }
  SPARSETRAIN_AVX512 __m512i key16(int64_t i) const { return _mm512_loadu_si512(x + i); }
#endif
};

struct FloatMagnitude {
  const float* x;

  void fetch(int64_t i) const { fetch_line(x, i); }
  int32_t key(int64_t i) const { return int32_t(as_key(x[i])); }
#ifdef SPARSETRAIN_X86
  SPARSETRAIN_AVX2 __m256i key8(int64_t i) const {
    return _mm256_and_si256(_mm256_castps_si256(_mm256_loadu_ps(x + i)),
                            _mm256_set1_epi32(0x7fffffff));
  }
  SPARSETRAIN_AVX512 __m512i key16(int64_t i) const {
    return _mm512_and_si512(_mm512_castps_si512(_mm512_loadu_ps(x + i)),
                            _mm512_set1_epi32(0x7fffffff));
  }
#endif
};

struct FloatProduct {
  const float *w, *g;

  void fetch(int64_t i) const { fetch_line(w, i), fetch_line(g, i); }
  int32_t key(int64_t i) const { return int32_t(as_key(w[i] * g[i])); }
#ifdef SPARSETRAIN_X86
  SPARSETRAIN_AVX2 __m256i key8(int64_t i) const {
    const __m256 product = _mm256_mul_ps(_mm256_loadu_ps(w + i), _mm256_loadu_ps(g + i));
    return _mm256_and_si256(_mm256_castps_si256(product), _mm256_set1_epi32(0x7fffffff));
  }
  SPARSETRAIN_AVX512 __m512i key16(int64_t i) const {
    const __m512 product = _mm512_mul_ps(_mm512_loadu_ps(w + i), _mm512_loadu_ps(g + i));
    return _mm512_and_si512(_mm512_castps_si512(product), _mm512_set1_epi32(0x7fffffff));
  }
#endif
};

// Scores [i, n); `base` is where score 0 lies in the tile, a multiple of 8.
template <MaskKind kind, typename Source>
void stream_portable(const Source& source, int64_t i, int64_t n, int64_t base, Bracket bracket,
                     uint8_t* keep, Found& found) {
  for (; i < n; i++) {
    const int32_t key = source.key(i);
    const bool above = key > bracket.hi;
    found.above += above;
    found.top = std::max(found.top, key);
    found.add(key, base + i, !above & (key >= bracket.lo));
    if (kind == MaskKind::kBytes)
      keep[i] = above;
    else
      keep[i / 8] = uint8_t((i & 7 ? keep[i / 8] : 0) | above << (i & 7));
  }
}

#ifdef SPARSETRAIN_X86

// kOrder8[m]: the set bits of m, lowest first.
struct Order8 {
  uint8_t lane[256][8];
};
constexpr Order8 order8() {
  Order8 order{};
  for (int m = 0; m < 256; m++)
    for (int bit = 0, n = 0; bit < 8; bit++)
      if (m >> bit & 1) order.lane[m][n++] = uint8_t(bit);
  return order;
}
alignas(64) inline constexpr Order8 kOrder8 = order8();

// Packs those of 8 keys whose lanes are set in `in`.
SPARSETRAIN_AVX2 inline void pack8(__m256i key, uint32_t in, int64_t base, Found& found) {
  const __m128i order = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(kOrder8.lane[in]));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(found.keys + found.count),
                      _mm256_permutevar8x32_epi32(key, _mm256_cvtepu8_epi32(order)));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(found.at + found.count),
                   _mm_add_epi16(_mm_cvtepu8_epi16(order), _mm_set1_epi16(int16_t(base))));
  found.count += _mm_popcnt_u32(in);
}

// 32 comparisons of 32 bits as bytes, in the order 0-3 8-11 16-19 24-27 4-7 ... of their lanes.
SPARSETRAIN_AVX2 inline __m256i narrow32(__m256i a, __m256i b, __m256i c, __m256i d) {
  return _mm256_packs_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
}

template <MaskKind kind, typename Source>
SPARSETRAIN_AVX2 void stream_avx2(const Source& source, int64_t n, int64_t base, Bracket bracket,
                                  uint8_t* keep, Found& found) {
  const __m256i hi = _mm256_set1_epi32(bracket.hi), under = _mm256_set1_epi32(bracket.lo - 1);
  const __m256i one = _mm256_set1_epi8(1), sorted = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  __m256i above = _mm256_setzero_si256(), top = _mm256_set1_epi32(found.top);
  int64_t i = 0;
  for (; i + 32 <= n; i += 32) {
    source.fetch(i + kAhead);
    source.fetch(i + kAhead + 16);
    const __m256i a = source.key8(i), b = source.key8(i + 8);
    const __m256i c = source.key8(i + 16), d = source.key8(i + 24);
    top = _mm256_max_epi32(top, _mm256_max_epi32(_mm256_max_epi32(a, b), _mm256_max_epi32(c, d)));
    const __m256i over = narrow32(_mm256_cmpgt_epi32(a, hi), _mm256_cmpgt_epi32(b, hi),
                                  _mm256_cmpgt_epi32(c, hi), _mm256_cmpgt_epi32(d, hi));
    const __m256i from = narrow32(_mm256_cmpgt_epi32(a, under), _mm256_cmpgt_epi32(b, under),
                                  _mm256_cmpgt_epi32(c, under), _mm256_cmpgt_epi32(d, under));
    const __m256i flags = _mm256_permutevar8x32_epi32(_mm256_and_si256(over, one), sorted);
    above = _mm256_add_epi64(above, _mm256_sad_epu8(flags, _mm256_setzero_si256()));
    if (kind == MaskKind::kBytes) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(keep + i), flags);
    } else {
      const int bits = _mm256_movemask_epi8(_mm256_slli_epi16(flags, 7));
      std::memcpy(keep + i / 8, &bits, 4);
    }
    const __m256i in = _mm256_xor_si256(over, from);
    if (!_mm256_testz_si256(in, in)) {
      const auto m = uint32_t(_mm256_movemask_epi8(_mm256_permutevar8x32_epi32(in, sorted)));
      pack8(a, m & 0xff, base + i, found);
      pack8(b, m >> 8 & 0xff, base + i + 8, found);
      pack8(c, m >> 16 & 0xff, base + i + 16, found);
      pack8(d, m >> 24, base + i + 24, found);
    }
  }
  alignas(32) int64_t counts[4];
  alignas(32) int32_t tops[8];
  _mm256_store_si256(reinterpret_cast<__m256i*>(counts), above);
  _mm256_store_si256(reinterpret_cast<__m256i*>(tops), top);
  found.above += counts[0] + counts[1] + counts[2] + counts[3];
  found.top = *std::max_element(tops, tops + 8);
  stream_portable<kind>(source, i, n, base, bracket, keep, found);
}

// Forms with a mask stand where GCC 12 warns of the value that the others leave undefined.
SPARSETRAIN_AVX512 inline void pack16(__m512i key, __mmask16 in, int64_t base, Found& found) {
  const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m512i at = _mm512_add_epi32(lane, _mm512_set1_epi32(int32_t(base)));
  _mm512_storeu_si512(found.keys + found.count, _mm512_maskz_compress_epi32(in, key));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(found.at + found.count),
                      _mm512_maskz_cvtepi32_epi16(0xffff, _mm512_maskz_compress_epi32(in, at)));
  found.count += _mm_popcnt_u32(in);
}

template <MaskKind kind, typename Source>
SPARSETRAIN_AVX512 void stream_avx512(const Source& source, int64_t n, int64_t base,
                                      Bracket bracket, uint8_t* keep, Found& found) {
  const __m512i hi = _mm512_set1_epi32(bracket.hi), under = _mm512_set1_epi32(bracket.lo - 1);
  __m512i top = _mm512_set1_epi32(found.top);
  int64_t i = 0;
  for (; i + 32 <= n; i += 32) {  // as AVX2 does: 64 a turn read memory a fifth slower on Zen 4
    uint32_t flags = 0, from = 0;
    __m512i key[2];
    for (int j = 0; j < 2; j++) {
      source.fetch(i + 16 * j + kAhead);
      key[j] = source.key16(i + 16 * j);
      top = _mm512_maskz_max_epi32(0xffff, top, key[j]);
      flags |= uint32_t(_mm512_cmpgt_epi32_mask(key[j], hi)) << 16 * j;
      from |= uint32_t(_mm512_cmpgt_epi32_mask(key[j], under)) << 16 * j;
    }
    if (const uint32_t in = from & ~flags)
      for (int j = 0; j < 2; j++) pack16(key[j], __mmask16(in >> 16 * j), base + i + 16 * j, found);
    found.above += _mm_popcnt_u32(flags);
    if (kind == MaskKind::kBytes)
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(keep + i), _mm256_maskz_set1_epi8(flags, 1));
    else
      std::memcpy(keep + i / 8, &flags, 4);
  }
  alignas(64) int32_t tops[16];
  _mm512_store_si512(tops, top);
  found.top = *std::max_element(tops, tops + 16);
  stream_portable<kind>(source, i, n, base, bracket, keep, found);
}

#endif

template <MaskKind kind, typename Source>
void stream_run(const Source& source, int64_t n, int64_t base, Bracket bracket, uint8_t* keep,
                Found& found) {
#ifdef SPARSETRAIN_X86
  if (isa() == Isa::kAvx512) return stream_avx512<kind>(source, n, base, bracket, keep, found);
  if (isa() == Isa::kAvx2) return stream_avx2<kind>(source, n, base, bracket, keep, found);
#endif
  stream_portable<kind>(source, 0, n, base, bracket, keep, found);
}

// visit(source), where the scores can be read straight from the tensors; else false.
template <typename Visit>
bool with_floats(const ScoreInput& in, const Score& score, int64_t begin, Visit visit) {
  if (in.dtype != Dtype::kFloat || in.within || score.kind == ScoreKind::kBlend) return false;
  const auto *w = static_cast<const float*>(in.weight), *g = static_cast<const float*>(in.grad);
  if (score.kind == ScoreKind::kSnip)
    visit(FloatProduct{w + begin, g + begin});
  else
    visit(FloatMagnitude{(score.kind == ScoreKind::kGradient ? g : w) + begin});
  return true;
}

template <MaskKind kind>
void stream_tile(const Segment& segment, const Tile& tile, const Score& score, Bracket bracket,
                 Found& found) {
  const bool direct = with_floats(segment.in, score, tile.begin, [&](const auto& source) {
    stream_run<kind>(source, tile.end - tile.begin, 0, bracket, segment.keep_from(tile.begin),
                     found);
  });
  if (direct) return;
  for_each_block(segment, tile, score, [&](const uint32_t* keys, int64_t n, int64_t i) {
    stream_run<kind>(KeysInL1{keys}, n, i - tile.begin, bracket, segment.keep_from(i), found);
  });
}

}  // namespace sparsetrain
