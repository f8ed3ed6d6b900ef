// The loops of attention.h for one instruction set: see gemm.h, functions.h and each_isa.h.

#define SPARSETRAIN_INLINE SPARSETRAIN_TARGET [[gnu::always_inline]] inline

// e^x of x that is at most 0; what would be denormal is 0.
SPARSETRAIN_INLINE Reg exp_below(Reg x) {
  const Reg least = broadcast(-87), high = larger(least, x), n = power_of(high);
  return select(less(x, least), broadcast(0), exp_part(high, n) * two_to(n));
}

// Scores of a panel of tokens, [s, kPanel], of which `columns` are there.
struct AttentionPanel {
  int64_t token, columns, seen;
  float *q, *scores, *held;
};

// Tiles of `rows` rows of m, each packed column by column, one after the other.
SPARSETRAIN_TARGET inline void pack_tiles(const Strided& m, int64_t rows, int64_t columns,
                                          float* to) {
  Gemm g{};
  g.a = m;
  for (int64_t row = 0; row < rows; row += kGemmRows) {
    const int count = int(std::min<int64_t>(kGemmRows, rows - row));
    pack_rows(g, row, count, 0, columns, to + row * columns);
  }
}

SPARSETRAIN_TARGET inline void pack_queries(const AttentionHead& h, const AttentionPanel& p) {
  Gemm g{};
  g.b = {h.q.data, h.q.column, h.q.row};
  pack_panel(g, p.token, int(p.columns), 0, h.d, p.q);
  const Reg scale = broadcast(h.scale);
  for (int64_t i = 0; i < h.d * kPanel; i += kWidth) store(p.q + i, load(p.q + i) * scale);
}

SPARSETRAIN_TARGET inline void mask_scores(const AttentionHead& h, const AttentionPanel& p) {
  for (int64_t s = 0; s < p.seen; s++) {
    float* scores = p.scores + s * kPanel;
    const int64_t at = p.token * h.mask_row + s * h.mask_column;
    for (int64_t t = 0; t < p.columns; t++) {
      const int64_t from = at + t * h.mask_row;
      if (h.added)
        scores[t] += h.added[from];
      else if (!h.kept[from])
        scores[t] = -INFINITY;
    }
  }
}

// Token t does not see s > t.
SPARSETRAIN_TARGET inline void hide_later(const AttentionPanel& p) {
  for (int64_t s = p.token + 1; s < p.seen; s++)
    std::fill_n(p.scores + s * kPanel, std::min(p.columns, s - p.token), -INFINITY);
}

SPARSETRAIN_TARGET inline void make_scores(const AttentionHead& h, const AttentionPanel& p,
                                           const float* keys) {
  for (int64_t row = 0; row < p.seen; row += kGemmRows) {
    const int count = int(std::min<int64_t>(kGemmRows, h.s - row));
    GemmTile tile{keys + row * h.d,        p.q,    kPanel,      h.d,
                  p.scores + row * kPanel, kPanel, int(kPanel), false};
    gemm_tile_of(count, int(p.columns))(tile);
  }
  if (h.masked()) mask_scores(h, p);
  if (h.causal) hide_later(p);
}

// exp(scores - the most of their column) in place, for the register of columns from scores on.
// Returns 1 / their sum, or 0 where there are none, or a mask leaves out all.
SPARSETRAIN_TARGET inline Reg soften(float* scores, int64_t seen, bool masked) {
  Reg most = broadcast(-INFINITY);
  for (int64_t s = 0; s < seen; s++) most = larger(load(scores + s * kPanel), most);
  if (masked) most = select(equal(most, broadcast(-INFINITY)), broadcast(0), most);
  FoldedSum terms;
  for (int64_t s = 0; s < seen; s++) {
    const Reg e = exp_below(load(scores + s * kPanel) - most);
    store(scores + s * kPanel, e);
    terms.add(e);
  }
  const Reg sum = terms.total(), zero = broadcast(0);
  return select(equal(sum, zero), zero, broadcast(1) / sum);
}

// y of `count` of its columns from `e` on.
SPARSETRAIN_TARGET inline void write_values(const AttentionHead& h, const AttentionPanel& p,
                                            int64_t e, int count, const Reg* scale) {
  for (int r = 0; r < count; r++) {
    float *held = p.held + r * kPanel, *y = h.y + p.token * h.y_row + (e + r) * h.y_column;
    for (int i = 0; i < p.columns; i += kWidth) {
      const Reg made = load(held + i) * scale[i / kWidth];
      const int left = int(p.columns) - i;
      if (h.y_row != 1)
        store(held + i, made);
      else if (left < kWidth)
        store_first(y + i, made, left);
      else
        store(y + i, made);
    }
    for (int64_t t = 0; t < p.columns && h.y_row != 1; t++) y[t * h.y_row] = held[t];
  }
}

SPARSETRAIN_TARGET inline void make_values(const AttentionHead& h, const AttentionPanel& p,
                                           const float* values, const Reg* scale) {
  for (int64_t e = 0; e < h.e; e += kGemmRows) {
    const int count = int(std::min<int64_t>(kGemmRows, h.e - e));
    const float* a = values + e * h.s;
    for (int64_t from = 0; from == 0 || from < p.seen; from += kGemmDepth) {
      const int64_t depth = std::min(kGemmDepth, p.seen - from);
      GemmTile tile{
          a + from * count, p.scores + from * kPanel, kPanel, depth, p.held, kPanel, int(kPanel),
          from > 0};
      gemm_tile_of(count, int(p.columns))(tile);
    }
    write_values(h, p, e, count, scale);
  }
}

// Token by token of a panel side by side, so that all scores of these stay in L1 or near.
SPARSETRAIN_TARGET inline void attend(const AttentionHead& h, float* scratch) {
  float *keys = scratch, *values = keys + h.s * h.d, *q = values + h.s * h.e;
  float *scores = q + h.d * kPanel, *held = scores + h.s * kPanel;
  pack_tiles(h.k, h.s, h.d, keys);
  pack_tiles({h.v.data, h.v.column, h.v.row}, h.e, h.s, values);
  for (int64_t t = h.first; t < h.last; t += kPanel) {
    const int64_t columns = std::min<int64_t>(kPanel, h.last - t);
    const AttentionPanel p{t, columns, h.causal ? std::min(h.s, t + columns) : h.s,
                           q, scores,  held};
    pack_queries(h, p);
    make_scores(h, p, keys);
    Reg scale[kGemmRegs];
    for (int64_t i = 0; i < columns; i += kWidth)
      scale[i / kWidth] = soften(scores + i, p.seen, h.masked());
    make_values(h, p, values, scale);
  }
}

#undef SPARSETRAIN_INLINE
