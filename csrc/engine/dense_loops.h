// The loops of dense.h for one instruction set: see gemm.h and vec.h.

// Outputs of a tile, and the most registers of each.
constexpr int kDenseRows = kRegisters == 32 ? 8 : 4, kDenseRegs = 3;
constexpr int kDenseWide = kDenseRegs * kWidth;
constexpr int64_t kDenseDepth = kPanelBytes / 4 / kDenseWide;

inline int64_t dense_tiles(int64_t outputs) { return (outputs + kDenseRows - 1) / kDenseRows; }

// The depth in parts of about one length.
struct DenseDepth {
  int64_t depth, parts;

  explicit DenseDepth(int64_t depth)
      : depth(depth), parts((depth + kDenseDepth - 1) / kDenseDepth) {}
  int64_t begin(int64_t part) const { return depth * part / parts; }
};

inline void dense_pack_on(const float* weight, int64_t groups, int64_t outputs, int64_t depth,
                          float* to) {
  const DenseDepth parts(depth);
  for (int64_t g = 0; g < groups; g++, weight += outputs * depth)
    for (int64_t part = 0; part < parts.parts; part++)
      for (int64_t row = 0; row < dense_tiles(outputs) * kDenseRows; row += kDenseRows)
        for (int64_t d = parts.begin(part); d < parts.begin(part + 1); d++)
          for (int64_t o = row; o < row + kDenseRows; o++)
            *to++ = o < outputs ? weight[o * depth + d] : 0;
}

// What of a panel lies in one line: neighbours in x and y.
struct DenseLine {
  int64_t line, column;
  int at, count;  // in the panel
};

// Numbers of y that are computed together: `registers`, the last with `tail` of them, in lines that
// follow each other.
struct DensePanel {
  int registers, tail, count = 0;
  DenseLine lines[kDenseWide];
};

inline DensePanel dense_panel(const DenseJob& job, int64_t panel, int64_t panels) {
  const int64_t all = job.lines * job.run, registers = (all + kWidth - 1) / kWidth;
  const int64_t begin = registers * panel / panels, end = registers * (panel + 1) / panels;
  DensePanel found;
  found.registers = int(end - begin);
  found.tail = int(std::min<int64_t>(kWidth, all - (end - 1) * kWidth));
  const int64_t stop = std::min(all, end * kWidth);
  for (int64_t from = begin * kWidth; from < stop;) {
    const int64_t line = from / job.run, column = from % job.run;
    const int count = int(std::min(stop - from, job.run - column));
    found.lines[found.count++] = {line, column, int(from - begin * kWidth), count};
    from += count;
  }
  return found;
}

// Stores of 2, 4, 8 numbers that overlap: stores under a mask are slow on some machines.
template <int N>
SPARSETRAIN_TARGET [[gnu::always_inline]] inline void dense_copy_ends(const float* from, float* to,
                                                                      int count) {
  float first[N], last[N];
  std::memcpy(first, from, sizeof first), std::memcpy(last, from + count - N, sizeof last);
  std::memcpy(to, first, sizeof first), std::memcpy(to + count - N, last, sizeof last);
}

SPARSETRAIN_TARGET [[gnu::always_inline]] inline void dense_copy(const float* from, float* to,
                                                                 int count) {
  int i = 0;
  for (; i + kWidth <= count; i += kWidth) store(to + i, load(from + i));
  const int left = count - i;
  if (kWidth > 8 && left >= 8)
    dense_copy_ends<8>(from + i, to + i, left);
  else if (kWidth > 4 && left >= 4)
    dense_copy_ends<4>(from + i, to + i, left);
  else if (left >= 2)
    dense_copy_ends<2>(from + i, to + i, left);
  else if (left == 1)
    to[i] = from[i];
}

template <int P>
SPARSETRAIN_TARGET void dense_pack_line(const int32_t* offset, int64_t depth, const float* x,
                                        float* to) {
  for (int64_t d = 0; d < depth; d++, to += P * kWidth) {
    const float* from = x + offset[d];
    SPARSETRAIN_UNROLL
    for (int p = 0; p < P; p++) store(to + p * kWidth, load(from + p * kWidth));
  }
}

// x of a panel for `depth` of the depth: [depth, registers * kWidth], zeros behind the tail.
SPARSETRAIN_TARGET inline void dense_pack_x(const DenseJob& job, const DensePanel& panel,
                                            const float* x, const int32_t* offset, int64_t depth,
                                            float* to) {
  const int wide = panel.registers * kWidth;
  if (panel.count == 1 && panel.tail == kWidth) {
    const float* from = x + panel.lines[0].line * job.x_line + panel.lines[0].column;
    if (panel.registers == 3) return dense_pack_line<3>(offset, depth, from, to);
    if (panel.registers == 2) return dense_pack_line<2>(offset, depth, from, to);
    return dense_pack_line<1>(offset, depth, from, to);
  }
  if (panel.tail < kWidth) std::fill_n(to, depth * wide, 0.0f);
  for (int64_t d = 0; d < depth; d++, to += wide)
    for (int i = 0; i < panel.count; i++) {
      const DenseLine& part = panel.lines[i];
      dense_copy(x + offset[d] + part.line * job.x_line + part.column, to + part.at, part.count);
    }
}

// One tile: adds `depth` of the depth to what stands in y, or first to bias and residual.
struct DenseTile {
  const float *x, *weight;
  int64_t depth;
  float* y;
  int64_t step;  // from one output of y to the next
  int tail, live;
  bool first, last;
  const float *bias, *residual;
};

template <int P>
SPARSETRAIN_TARGET [[gnu::always_inline]] inline Reg dense_get(const DenseTile& t,
                                                               const float* from, int i) {
  const float* at = from + i / P * t.step + i % P * kWidth;
  return i % P == P - 1 && t.tail < kWidth ? load_first(at, t.tail) : load(at);
}

template <int P>
SPARSETRAIN_TARGET [[gnu::always_inline]] inline void dense_begin(const DenseTile& t, Reg* sum) {
  SPARSETRAIN_UNROLL
  for (int i = 0; i < kDenseRows * P; i++) {
    const bool live = i / P < t.live;
    if (!t.first) {
      sum[i] = live ? dense_get<P>(t, t.y, i) : broadcast(0);
      continue;
    }
    sum[i] = broadcast(t.bias && live ? t.bias[i / P] : 0);
    if (t.residual && live) sum[i] = add(sum[i], dense_get<P>(t, t.residual, i));
  }
}

template <int P>
SPARSETRAIN_TARGET [[gnu::always_inline]] inline void dense_end(const DenseJob& job,
                                                                const DenseTile& t, Reg* sum) {
  if (t.last && job.relu) {
    const Reg most = broadcast(job.most);
    SPARSETRAIN_UNROLL
    for (int i = 0; i < kDenseRows * P; i++) sum[i] = least(most, relu(sum[i]));
  }
  SPARSETRAIN_UNROLL
  for (int i = 0; i < kDenseRows * P; i++) {
    if (i / P >= t.live) continue;
    float* to = t.y + i / P * t.step + i % P * kWidth;
    if (i % P == P - 1 && t.tail < kWidth) {
      float held[kWidth];
      store(held, sum[i]);
      dense_copy(held, to, t.tail);
    } else {
      store(to, sum[i]);
    }
  }
}

template <int P>
SPARSETRAIN_TARGET void dense_tile(const DenseJob& job, const DenseTile& t) {
  Reg sum[kDenseRows * P];
  dense_begin<P>(t, sum);
  add_products<kDenseRows, P>(t.weight, t.x, P * kWidth, t.depth, sum);
  dense_end<P>(job, t, sum);
}

// Copies a panel of y, of `live` outputs, to or from memory of its own.
template <bool out>
SPARSETRAIN_TARGET inline void dense_move(const DenseJob& job, const DensePanel& panel, int live,
                                          float* y, float* held) {
  for (int r = 0; r < live; r++, y += job.y_channel, held += kDenseWide)
    for (int i = 0; i < panel.count; i++) {
      const DenseLine& part = panel.lines[i];
      float* at = y + part.line * job.y_line + part.column;
      if (out)
        dense_copy(held + part.at, at, part.count);
      else
        dense_copy(at, held + part.at, part.count);
    }
}

using DenseRun = void (*)(const DenseJob&, const DenseTile&);

// A tile whose numbers are no neighbours in y.
SPARSETRAIN_TARGET inline void dense_apart(const DenseJob& job, const DensePanel& panel,
                                           DenseRun run, DenseTile tile, int64_t y_at) {
  alignas(64) float held[kDenseRows * kDenseWide], added[kDenseRows * kDenseWide];
  tile.y = held, tile.step = kDenseWide;
  if (!tile.first) {
    dense_move<false>(job, panel, tile.live, job.y + y_at, held);
  } else if (job.residual) {
    dense_move<false>(job, panel, tile.live, const_cast<float*>(job.residual) + y_at, added);
    tile.residual = added;
  }
  run(job, tile);
  dense_move<true>(job, panel, tile.live, job.y + y_at, held);
}

// What of the outputs, by tiles, and of the depth is computed.
struct DensePart {
  int64_t group, begin, end;  // tiles
  int64_t from, depth;
  const float* weight;  // of the group's first tile, for this depth
};

SPARSETRAIN_TARGET inline void dense_tiles_of(const DenseJob& job, const DensePart& part,
                                              const DensePanel& panel, const float* x) {
  const DenseRun run = panel.registers == 3   ? dense_tile<3>
                       : panel.registers == 2 ? dense_tile<2>
                                              : dense_tile<1>;
  const bool beside = job.y_line == job.run || panel.count == 1;
  const bool first = part.from == 0, last = part.from + part.depth == job.depth;
  for (int64_t t = part.begin; t < part.end; t++) {
    const int64_t output = t * kDenseRows, channel = part.group * job.outputs + output;
    const int64_t y_at = channel * job.y_channel;
    DenseTile it{x,
                 part.weight + t * part.depth * kDenseRows,
                 part.depth,
                 nullptr,
                 job.y_channel,
                 panel.tail,
                 int(std::min<int64_t>(kDenseRows, job.outputs - output)),
                 first,
                 last,
                 job.bias ? job.bias + channel : nullptr,
                 nullptr};
    if (!beside) {
      dense_apart(job, panel, run, it, y_at);
      continue;
    }
    const int64_t at = y_at + panel.lines[0].line * job.y_line + panel.lines[0].column;
    it.y = job.y + at, it.residual = job.residual ? job.residual + at : nullptr;
    run(job, it);
  }
}

// Tiles [begin, end) of a group's outputs for panels [from, to).
SPARSETRAIN_TARGET inline void dense_block(const DenseJob& job, int64_t group,
                                           const int64_t (&tiles)[2], const int64_t (&panels)[2],
                                           int64_t all) {
  alignas(64) float x[kDenseDepth * kDenseWide];
  const DenseDepth depth(job.depth);
  const int64_t row = dense_tiles(job.outputs) * kDenseRows;
  const float* from = job.x + group * job.x_group;
  for (int64_t i = 0; i < depth.parts; i++) {
    const int64_t begin = depth.begin(i), count = depth.begin(i + 1) - begin;
    const float* weight = job.weight + (group * job.depth + begin) * row;
    const int64_t many = std::max<int64_t>(1, kBlockBytes / (4 * kDenseRows * count));
    for (int64_t t = tiles[0]; t < tiles[1]; t += many) {
      const DensePart part{group, t, std::min(tiles[1], t + many), begin, count, weight};
      for (int64_t p = panels[0]; p < panels[1]; p++) {
        const DensePanel panel = dense_panel(job, p, all);
        dense_pack_x(job, panel, from, job.offset + begin, count, x);
        dense_tiles_of(job, part, panel, x);
      }
    }
  }
}

// The first `count` parts are three quarters of n, and as many shorter ones follow: which thread is
// held up by others of the system takes fewer of these.
inline int64_t dense_share(int64_t n, int64_t part, int64_t count) {
  return n * (part <= count ? 3 * part : 2 * count + part) / (4 * count);
}

// Threads share the panels, or where there are more outputs, these: what is larger of weight and x
// is then read once. Parts are few, since each reads all of the other.
inline void dense_on(const DenseJob& job, engine::Threads* threads) {
  const int64_t registers = (job.lines * job.run + kWidth - 1) / kWidth;
  const int64_t panels = (registers + kDenseRegs - 1) / kDenseRegs;
  const int64_t tiles = dense_tiles(job.outputs), items = job.groups * panels;
  const auto by_panels = [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end;) {
      const int64_t group = i / panels, from = i % panels;
      const int64_t to = std::min(panels, from + end - i);
      dense_block(job, group, {0, tiles}, {from, to}, panels);
      i += to - from;
    }
  };
  const auto by_outputs = [&](int64_t begin, int64_t end) {
    for (int64_t group = 0; group < job.groups; group++)
      dense_block(job, group, {begin, end}, {0, panels}, panels);
  };
  if (!threads) return by_panels(0, items);
  const int count = threads->count();
  const bool panels_first = items >= kManyPanels * count || job.outputs < job.lines * job.run;
  const int64_t n = panels_first ? items : tiles;
  threads->parallel(2 * count, [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; p++) {
      const int64_t from = dense_share(n, p, count), to = dense_share(n, p + 1, count);
      panels_first ? by_panels(from, to) : by_outputs(from, to);
    }
  });
}
