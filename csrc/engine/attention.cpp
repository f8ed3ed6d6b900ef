// attention: y = softmax(scale q k^T + mask) v.
//
//   in   q [B, H, T, D], k [B, H, S, D], v [B, H, S, E], fp32; a mask [B, H, T, S] where there is
//        one, fp32, which is added, or bool, of which False is left out
//   out  y [B, H, T, E]
//   attributes: scale, a real number, and whether token t sees only the first t + 1 of S
//
// Scores of some tokens t with all of S are made, [S, t], then their softmax, then y: all in
// scratch that stays in the cache. A token of which all are left out gets zeros, as in PyTorch.
#include <cmath>

#include "gemm.h"
#include "operations.h"
#include "pointwise.h"
#include "softmax.h"

namespace sparsetrain::engine {
namespace {

constexpr int64_t kScores = 64 * 1024, kMostTokens = 256, kFewestTokens = 32;

struct Attention {
  Operand q, k, v, mask, y;
  bool masked, causal;
  float scale;
  int64_t tokens;  // of a tile

  explicit Attention(const Call& call)
      : q(call.in[0]),
        k(call.in[1]),
        v(call.in[2]),
        mask(call.inputs == 4 ? call.in[3] : Operand()),
        y(call.out[0]),
        masked(call.inputs == 4),
        causal(call.attributes.whole(1)),
        scale(float(call.attributes.real(0))) {
    const int64_t fit = kScores / std::max<int64_t>(1, k.shape[2]) / kFewestTokens * kFewestTokens;
    tokens = std::min(q.shape[2], std::clamp(fit, kFewestTokens, kMostTokens));
  }

  int64_t tiles() const { return tokens ? (q.shape[2] + tokens - 1) / tokens : 0; }
  int64_t numbers() const { return kGemmScratch + tokens * k.shape[2]; }
};

// Where a head of an operand begins.
int64_t head_of(const Operand& x, int64_t b, int64_t h) {
  return b * x.stride[0] + h * x.stride[1];
}

// One tile: tokens [first, first + count) of a head, and how many of S any of them sees.
struct Tile {
  int64_t b, h, first, count, seen;
  float* scores;  // [seen, count]
};

SPARSETRAIN_LOOP void scale_scores(float* scores, float scale, int64_t n) {
  for (int64_t i = 0; i < n; i++) scores[i] = scores[i] * scale;
}

void add_mask(const Attention& a, const Tile& t) {
  const Operand& m = a.mask;
  const int64_t at = head_of(m, t.b, t.h) + t.first * m.stride[2];
  for (int64_t s = 0; s < t.seen; s++) {
    float* scores = t.scores + s * t.count;
    const int64_t from = at + s * m.stride[3];
    for (int64_t i = 0; i < t.count; i++) {
      const int64_t place = from + i * m.stride[2];
      if (m.dtype == DType::kFloat)
        scores[i] += m.floats()[place];
      else if (!m.flags()[place])
        scores[i] = -INFINITY;
    }
  }
}

// Token first + i does not see s > first + i.
void hide_later(const Tile& t) {
  for (int64_t s = t.first + 1; s < t.seen; s++)
    std::fill_n(t.scores + s * t.count, std::min(t.count, s - t.first), -INFINITY);
}

void make_scores(const Attention& a, const Tile& t, float* scratch) {
  const Operand &q = a.q, &k = a.k;
  const Strided keys{k.floats() + head_of(k, t.b, t.h), k.stride[2], k.stride[3]};
  const float* queries = q.floats() + head_of(q, t.b, t.h) + t.first * q.stride[2];
  gemm({t.seen,
        t.count,
        q.shape[3],
        keys,
        {queries, q.stride[3], q.stride[2]},
        t.scores,
        t.count,
        1},
       scratch);
  simd<scale_scores>(t.scores, a.scale, t.seen * t.count);
  if (a.masked) add_mask(a, t);
  if (a.causal) hide_later(t);
}

void run_tile(const Attention& a, const Tile& t, float* scratch) {
  const Operand &v = a.v, &y = a.y;
  make_scores(a, t, scratch);
  SPARSETRAIN_BEST(softmax_lanes)({t.scores, t.scores, t.count, t.count, t.seen, t.count}, false,
                                  a.masked);
  const Strided values{v.floats() + head_of(v, t.b, t.h), v.stride[3], v.stride[2]};
  float* to = y.floats() + head_of(y, t.b, t.h) + t.first * y.stride[2];
  gemm({v.shape[3], t.count, t.seen, values, {t.scores, t.count, 1}, to, y.stride[3], y.stride[2]},
       scratch);
}

void check_mask(const Operand& mask, const Operand& q, const Operand& k) {
  require(mask.rank == 4 && (mask.dtype == DType::kFloat || mask.dtype == DType::kBool),
          "attention: the mask must be fp32 or bool of 4 axes");
  require(std::equal(mask.shape, mask.shape + 3, q.shape) && mask.shape[3] == k.shape[2],
          "attention: the mask must be [B, H, T, S]");
}

void check(const Call& call) {
  require((call.inputs == 3 || call.inputs == 4) && call.outputs == 1 && call.attributes.count == 2,
          "attention: q, k, v, perhaps a mask, one output and two attributes are needed");
  const Operand &q = call.in[0], &k = call.in[1], &v = call.in[2], &y = call.out[0];
  for (const Operand& x : {q, k, v, y})
    require(x.rank == 4 && x.dtype == DType::kFloat,
            "attention: q, k, v and y must be fp32 of 4 axes");
  for (const Operand& x : {k, v, y})
    require(x.shape[0] == q.shape[0] && x.shape[1] == q.shape[1],
            "attention: q, k, v and y must be of one batch and as many heads");
  require(k.shape[3] == q.shape[3], "attention: q and k must be of one size D");
  require(v.shape[2] == k.shape[2], "attention: k and v must have as many tokens");
  require(y.shape[2] == q.shape[2] && y.shape[3] == v.shape[3],
          "attention: y must be [B, H, T, E]");
  if (call.inputs == 4) check_mask(call.in[3], q, k);
  require(std::isfinite(call.attributes.real(0)), "attention: scale must be finite");
  require(call.attributes.whole(1) == 0 || call.attributes.whole(1) == 1,
          "attention: the second attribute must be 0 or 1");
}

int64_t scratch(const Call& call, int threads) { return threads * Attention(call).numbers(); }

void run(const Call& call, Threads& threads) {
  const Attention a(call);
  const int64_t heads = a.q.shape[1], tiles = a.tiles(), all = a.q.shape[0] * heads * tiles;
  const int64_t numbers = all * a.tokens * a.k.shape[2] * a.q.shape[3] / 16;
  shares(threads, all, numbers, [&](int64_t share, int64_t begin, int64_t end) {
    float* scratch = call.scratch + share * a.numbers();
    for (int64_t i = begin; i < end; i++) {
      const int64_t first = i % tiles * a.tokens, head = i / tiles;
      const int64_t count = std::min(a.tokens, a.q.shape[2] - first);
      const int64_t seen = a.causal ? std::min(a.k.shape[2], first + count) : a.k.shape[2];
      run_tile(a, {head / heads, head % heads, first, count, seen, scratch + kGemmScratch},
               scratch);
    }
  });
}

}  // namespace

const Operation kAttention{"attention", check, run, scratch};

}  // namespace sparsetrain::engine
