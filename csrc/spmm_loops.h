// The loops of spmm.h for one instruction set: see vec.h and each_isa.h.

// R lines, P registers each, of the V channels of one group.
template <int V, int R, int P, bool partial>
SPARSETRAIN_TARGET void spmm_tile(const SpmmJob& job, int64_t segment, int64_t group,
                                  const float* x, int64_t y_at, int tail) {
  const SpmmShape& s = job.shape;
  const int64_t begin = job.entries.start[segment * s.groups + group];
  const int64_t end = job.entries.start[segment * s.groups + group + 1];
  const bool first = segment == 0, last = segment == s.segments - 1;
  if (begin == end && !first && !last) return;
  const int64_t channel = group * V;
  const int live = int(std::min<int64_t>(V, s.channels - channel));
  float* y = job.output.y + y_at + channel * s.y_channel;
  Reg sum[V][R][P];
  for (int v = 0; v < V; v++)
    for (int r = 0; r < R; r++)
      for (int p = 0; p < P; p++) {
        const float* from = y + v * s.y_channel + r * s.y_line + p * kWidth;
        if (first || v >= live)
          sum[v][r][p] = broadcast(job.output.bias && v < live ? job.output.bias[channel + v] : 0);
        else
          sum[v][r][p] = partial && p == P - 1 ? load_first(from, tail) : load(from);
      }
  const int32_t* offset = job.entries.offset;
  const float* value = job.entries.value;
  for (int64_t k = begin; k < end; k++) {
    const float* at = x + offset[k];
    Reg in[R][P];
    for (int r = 0; r < R; r++)
      for (int p = 0; p < P; p++) {
        const float* from = at + r * s.x_line + p * kWidth;
        in[r][p] = partial && p == P - 1 ? load_first(from, tail) : load(from);
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
          out = add(out, some ? load_first(from, tail) : load(from));
        }
        if (last && job.output.relu) out = relu(out);
        some ? store_first(y + at, out, tail) : store(y + at, out);
      }
}

using SpmmTile = void (*)(const SpmmJob&, int64_t, int64_t, const float*, int64_t, int);

// Registers for sums; the rest hold x, the value and addresses.
constexpr int spmm_sums(int v) { return kRegisters * 3 / 4 / v; }

template <int V, int R, int P>
SPARSETRAIN_TARGET SpmmTile spmm_tile_of(bool partial) {
  if constexpr (R * P <= std::max(1, spmm_sums(V)))
    return partial ? spmm_tile<V, R, P, true> : spmm_tile<V, R, P, false>;
  else
    return nullptr;
}

template <int V, int R>
SPARSETRAIN_TARGET SpmmTile spmm_tile_of(int registers, bool partial) {
  switch (registers) {
    case 1:
      return spmm_tile_of<V, R, 1>(partial);
    case 2:
      return spmm_tile_of<V, R, 2>(partial);
    case 3:
      return spmm_tile_of<V, R, 3>(partial);
    case 4:
      return spmm_tile_of<V, R, 4>(partial);
    case 5:
      return spmm_tile_of<V, R, 5>(partial);
    case 6:
      return spmm_tile_of<V, R, 6>(partial);
    case 7:
      return spmm_tile_of<V, R, 7>(partial);
    default:
      return spmm_tile_of<V, R, 8>(partial);
  }
}

template <int V>
SPARSETRAIN_TARGET SpmmTile spmm_tile_of(int lines, int registers, bool partial) {
  if (lines == 4) return spmm_tile_of<V, 4>(registers, partial);
  return lines == 2 ? spmm_tile_of<V, 2>(registers, partial)
                    : spmm_tile_of<V, 1>(registers, partial);
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
    const SpmmTile tile = spmm_tile_of<V>(lines, count, tail < kWidth);
    for (int64_t segment = 0; segment < s.segments; segment++)
      for (int64_t g = groups[0]; g < groups[1]; g++)
        tile(job, segment, g, job.x + x_at + from * kWidth, y_at + from * kWidth, tail);
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
