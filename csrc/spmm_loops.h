// The loops of spmm.h for one instruction set: see vec.h and each_isa.h.

// Where a tile reads and writes: x and y of its first line and channel, and what of the entries and
// groups it is for. The last register of a line has `tail` floats.
struct SpmmTile {
  const float* x;
  int64_t y_at, segment, begin, end;
  int tail;
};

// R lines, P registers each, of the V channels of one group.
template <int V, int R, int P, bool partial>
SPARSETRAIN_TARGET [[gnu::always_inline]] inline void spmm_group(const SpmmJob& job,
                                                                 const SpmmTile& tile,
                                                                 int64_t group) {
  const SpmmShape& s = job.shape;
  const int32_t* start = job.entries.start + tile.segment * s.groups + group;
  const int64_t begin = start[0], end = start[1];
  const bool first = tile.segment == 0, last = tile.segment == s.segments - 1;
  if (begin == end && !first && !last) return;
  const int64_t channel = group * V;
  const int live = int(std::min<int64_t>(V, s.channels - channel));
  float* y = job.output.y + tile.y_at + channel * s.y_channel;
  Reg sum[V][R][P];
  for (int v = 0; v < V; v++)
    for (int r = 0; r < R; r++)
      for (int p = 0; p < P; p++) {
        const float* from = y + v * s.y_channel + r * s.y_line + p * kWidth;
        if (first || v >= live)
          sum[v][r][p] = broadcast(job.output.bias && v < live ? job.output.bias[channel + v] : 0);
        else
          sum[v][r][p] = partial && p == P - 1 ? load_first(from, tile.tail) : load(from);
      }
  if (first)
    for (int v = 0; v < live; v++)
      for (int r = 0; r < R; r++) prefetch(y + v * s.y_channel + r * s.y_line + P * kWidth - 1);
  const int32_t* offset = job.entries.offset;
  const float* value = job.entries.value;
  for (int64_t k = begin; k < end; k++) {
    const float* at = tile.x + offset[k];
    Reg in[R][P];
    for (int r = 0; r < R; r++) {
      prefetch(at + r * s.x_line + 2 * P * kWidth - 1);
      for (int p = 0; p < P; p++) {
        const float* from = at + r * s.x_line + p * kWidth;
        in[r][p] = partial && p == P - 1 ? load_first(from, tile.tail) : load(from);
      }
    }
    for (int v = 0; v < V; v++) {
      const Reg w = broadcast(value[k * V + v]);
      for (int r = 0; r < R; r++)
        for (int p = 0; p < P; p++) sum[v][r][p] = multiply_add(w, in[r][p], sum[v][r][p]);
    }
  }
  const float* residual = last ? job.output.residual : nullptr;
  for (int v = 0; v < live; v++)
    for (int r = 0; r < R; r++)
      for (int p = 0; p < P; p++) {
        const int64_t at = v * s.y_channel + r * s.y_line + p * kWidth;
        const bool some = partial && p == P - 1;
        Reg out = sum[v][r][p];
        if (residual) {
          const float* from = residual + (y - job.output.y) + at;
          out = add(out, some ? load_first(from, tile.tail) : load(from));
        }
        if (last && job.output.relu) out = relu(out);
        some ? store_first(y + at, out, tile.tail) : store(y + at, out);
      }
}

template <int V, int R, int P, bool partial>
SPARSETRAIN_TARGET void spmm_groups(const SpmmJob& job, const SpmmTile& tile) {
  for (int64_t g = tile.begin; g < tile.end; g++) spmm_group<V, R, P, partial>(job, tile, g);
}

using SpmmGroups = void (*)(const SpmmJob&, const SpmmTile&);

// Registers for sums; the rest hold x, the value and addresses.
constexpr int spmm_sums(int v) { return kRegisters * 3 / 4 / v; }

template <int V, int R, int P>
SPARSETRAIN_TARGET SpmmGroups spmm_groups_of(bool partial) {
  if constexpr (R * P <= std::max(1, spmm_sums(V)))
    return partial ? spmm_groups<V, R, P, true> : spmm_groups<V, R, P, false>;
  else
    return nullptr;
}

template <int V, int R>
SPARSETRAIN_TARGET SpmmGroups spmm_groups_of(int registers, bool partial) {
  switch (registers) {
    case 1:
      return spmm_groups_of<V, R, 1>(partial);
    case 2:
      return spmm_groups_of<V, R, 2>(partial);
    case 3:
      return spmm_groups_of<V, R, 3>(partial);
    case 4:
      return spmm_groups_of<V, R, 4>(partial);
    case 5:
      return spmm_groups_of<V, R, 5>(partial);
    case 6:
      return spmm_groups_of<V, R, 6>(partial);
    case 7:
      return spmm_groups_of<V, R, 7>(partial);
    default:
      return spmm_groups_of<V, R, 8>(partial);
  }
}

template <int V>
SPARSETRAIN_TARGET SpmmGroups spmm_groups_of(int lines, int registers, bool partial) {
  if (lines == 4) return spmm_groups_of<V, 4>(registers, partial);
  return lines == 2 ? spmm_groups_of<V, 2>(registers, partial)
                    : spmm_groups_of<V, 1>(registers, partial);
}

// Groups [begin, end) of `lines` lines from `line` on of one block: chunk by chunk, so that the
// window of x that a chunk needs stays in cache while all channels pass.
template <int V>
SPARSETRAIN_TARGET void spmm_lines(const SpmmJob& job, const int64_t (&at)[2], int lines,
                                   const int64_t (&groups)[2], int most) {
  const SpmmShape& s = job.shape;
  const int64_t x_at = at[0] * s.x_block + at[1] * s.x_line;
  const int64_t y_at = at[0] * s.y_block + at[1] * s.y_line;
  const int64_t all = (s.run + kWidth - 1) / kWidth, chunks = (all + most - 1) / most;
  for (int64_t c = 0, from = 0; c < chunks; c++) {
    const int count = int((all - from + chunks - c - 1) / (chunks - c));
    const int tail = int(std::min<int64_t>(kWidth, s.run - (from + count - 1) * kWidth));
    const SpmmGroups run = spmm_groups_of<V>(lines, count, tail < kWidth);
    for (int64_t segment = 0; segment < s.segments; segment++)
      run(job, {job.x + x_at + from * kWidth, y_at + from * kWidth, segment, groups[0], groups[1],
                tail});
    from += count;
  }
}

template <int V, typename Parallel>
void spmm_of(const SpmmJob& job, int threads, Parallel parallel) {
  const SpmmShape& s = job.shape;
  const int sums = std::max(1, spmm_sums(V));
  const int64_t all = (s.run + kWidth - 1) / kWidth;
  int most = int(std::min<int64_t>({all, sums, 8}));
  // Long lines are not in L1 from one chunk to the next: there a chunk is whole lines of the cache.
  constexpr int kCacheLine = std::max(1, 16 / kWidth);
  if (all > 32 && most > kCacheLine) most -= most % kCacheLine;
  int lines = 4;  // as many as registers and lines allow
  while (lines > 1 && (lines * most > sums || lines > s.lines)) lines /= 2;
  const int64_t tiles = (s.lines + lines - 1) / lines, items = s.blocks * tiles;
  const int64_t wanted = items % threads == 0 ? 1 : (4 * threads + items - 1) / items;
  const int64_t parts = std::max<int64_t>(1, std::min(wanted, s.groups));
  parallel(items * parts, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i++) {
      const int64_t item = i / parts, part = i % parts, block = item / tiles;
      const int64_t groups[2] = {s.groups * part / parts, s.groups * (part + 1) / parts};
      int64_t line = item % tiles * lines;
      const int64_t stop = std::min(s.lines, line + lines);
      for (int step = lines; line < stop; step = step / 2)
        for (; line + step <= stop; line += step) {
          const int64_t at[2] = {block, line};
          spmm_lines<V>(job, at, step, groups, most);
        }
    }
  });
}

template <typename Parallel>
void spmm_on(const SpmmJob& job, int v, int threads, Parallel parallel) {
  if (v == 1) return spmm_of<1>(job, threads, parallel);
  if (v == 4) return spmm_of<4>(job, threads, parallel);
  if (v == 8) return spmm_of<8>(job, threads, parallel);
  spmm_of<16>(job, threads, parallel);
}
