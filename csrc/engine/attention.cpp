// attention: y = softmax(scale q k^T + mask) v.
//
//   in   q [B, H, T, D], k [B, H, S, D], v [B, H, S, E], fp32; a mask [B, H, T, S] where there is
//        one, fp32, which is added, or bool, of which False is left out
//   out  y [B, H, T, E]
//   attributes: scale, a real number, and whether token t sees only the first t + 1 of S
//
// A panel of tokens t at a time, as many as fill two registers: scores with all of S are made,
// [S, t], then their softmax, then y, all in scratch that stays in the cache. A token of which all
// are left out gets zeros, as in PyTorch.
#include "attention.h"

#include <cmath>

#include "loops.h"
#include "operations.h"

namespace sparsetrain::engine {
namespace {

constexpr int64_t kMostTokens = 256, kFewestTokens = 64;  // of a part that one thread does

struct Attention {
  Operand q, k, v, mask, y;
  bool masked, causal;
  float scale;
  int64_t heads, parts;  // parts of a head's tokens, so that all threads have work

  Attention(const Call& call, int threads)
      : q(call.in[0]),
        k(call.in[1]),
        v(call.in[2]),
        mask(call.inputs == 4 ? call.in[3] : Operand()),
        y(call.out[0]),
        masked(call.inputs == 4),
        causal(call.attributes.whole(1)),
        scale(float(call.attributes.real(0))),
        heads(q.shape[0] * q.shape[1]) {
    const int64_t tokens = q.shape[2], whole = (tokens + kMostTokens - 1) / kMostTokens;
    const int64_t most = std::max<int64_t>(1, tokens / kFewestTokens);
    const bool even = heads == 0 || heads * whole % threads == 0;
    parts = even ? whole : std::clamp<int64_t>(4 * threads / heads, whole, std::max(whole, most));
  }

  int64_t numbers() const { return attention_scratch(k.shape[2], q.shape[3], v.shape[3]); }
  AttentionHead head(int64_t b, int64_t h, int64_t part) const;
};

// Where a head of an operand begins.
int64_t head_of(const Operand& x, int64_t b, int64_t h) {
  return b * x.stride[0] + h * x.stride[1];
}

Strided matrix_of(const Operand& x, int64_t b, int64_t h) {
  return {x.floats() + head_of(x, b, h), x.stride[2], x.stride[3]};
}

AttentionHead Attention::head(int64_t b, int64_t h, int64_t part) const {
  const int64_t tokens = q.shape[2], last = tokens * (part + 1) / parts;
  AttentionHead made{tokens * part / parts,
                     last,
                     causal ? std::min(k.shape[2], last) : k.shape[2],
                     q.shape[3],
                     v.shape[3],
                     matrix_of(q, b, h),
                     matrix_of(k, b, h),
                     matrix_of(v, b, h),
                     y.floats() + head_of(y, b, h),
                     y.stride[2],
                     y.stride[3],
                     scale,
                     causal};
  if (!masked) return made;
  const int64_t at = head_of(mask, b, h);
  made.mask_row = mask.stride[2], made.mask_column = mask.stride[3];
  if (mask.dtype == DType::kFloat)
    made.added = mask.floats() + at;
  else
    made.kept = mask.flags() + at;
  return made;
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

int64_t scratch(const Call& call, int threads) {
  return threads * Attention(call, threads).numbers();
}

void run(const Call& call, Threads& threads) {
  const Attention a(call, threads.count());
  if (a.y.count() == 0) return;
  const int64_t heads = a.q.shape[1], all = a.heads * a.parts;
  const int64_t numbers = a.heads * a.q.shape[2] * a.k.shape[2] * a.q.shape[3] / 16;
  shares(threads, all, numbers, [&](int64_t share, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      const int64_t head = i / a.parts;
      SPARSETRAIN_BEST(attend)
      (a.head(head / heads, head % heads, i % a.parts), call.scratch + share * a.numbers());
    }
  });
}

}  // namespace

const Operation kAttention{"attention", check, run, scratch};

}  // namespace sparsetrain::engine
