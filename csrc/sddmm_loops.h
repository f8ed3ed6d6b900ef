// The loops of sddmm.h for one instruction set: see vec.h and each_isa.h.

// dvalue of a group's entries += sum over the tile of dy * x. For V = 1 four entries share a
// reduction, else four channels of one entry.
template <int V, int R, int P, bool partial>
SPARSETRAIN_TARGET void sddmm_tile(const SddmmJob& job, int64_t segment, int64_t group,
                                   const float* x, int64_t dy_at, int tail) {
  const SpmmShape& s = job.shape;
  const int64_t begin = job.start[segment * s.groups + group];
  const int64_t end = job.start[segment * s.groups + group + 1];
  if (begin == end) return;
  const int64_t channel = group * V;
  const int live = int(std::min<int64_t>(V, s.channels - channel));
  Reg dy[V][R][P];
  for (int v = 0; v < V; v++)
    for (int r = 0; r < R; r++)
      for (int p = 0; p < P; p++) {
        const float* from =
            job.dy + dy_at + (channel + v) * s.y_channel + r * s.y_line + p * kWidth;
        dy[v][r][p] = v >= live               ? broadcast(0)
                      : partial && p == P - 1 ? load_first(from, tail)
                                              : load(from);
      }
  constexpr int kEntries = V == 1 ? 4 : 1, kSums = V == 1 ? 4 : V;
  for (int64_t k = begin; k < end; k += kEntries) {
    Reg sum[kSums];
    for (int j = 0; j < kSums; j++) sum[j] = broadcast(0);
    for (int e = 0; e < kEntries; e++) {
      const float* at = x + job.offset[std::min(k + e, end - 1)];
      for (int r = 0; r < R; r++)
        for (int p = 0; p < P; p++) {
          const float* from = at + r * s.x_line + p * kWidth;
          const Reg in = partial && p == P - 1 ? load_first(from, tail) : load(from);
          for (int v = 0; v < V; v++) sum[e + v] = multiply_add(dy[v][r][p], in, sum[e + v]);
        }
    }
    if (V > 1) {
      for (int j = 0; j < kSums; j += 4) add_sums(sum + j, job.dvalue + k * V + j);
    } else if (k + 4 <= end) {
      add_sums(sum, job.dvalue + k);
    } else {
      float rest[4] = {};
      add_sums(sum, rest);
      for (int64_t e = 0; k + e < end; e++) job.dvalue[k + e] += rest[e];
    }
  }
}

using SddmmTile = void (*)(const SddmmJob&, int64_t, int64_t, const float*, int64_t, int);

// Registers for dy; the rest hold four sums, x and addresses.
constexpr int sddmm_held(int v) { return std::max(1, kRegisters / 2 / v); }

template <int V, int R, int P>
SPARSETRAIN_TARGET SddmmTile sddmm_tile_of(bool partial) {
  if constexpr (R * P <= sddmm_held(V))
    return partial ? sddmm_tile<V, R, P, true> : sddmm_tile<V, R, P, false>;
  else
    return nullptr;
}

template <int V, int R>
SPARSETRAIN_TARGET SddmmTile sddmm_tile_of(int registers, bool partial) {
  switch (registers) {
    case 1:
      return sddmm_tile_of<V, R, 1>(partial);
    case 2:
      return sddmm_tile_of<V, R, 2>(partial);
    case 3:
      return sddmm_tile_of<V, R, 3>(partial);
    case 4:
      return sddmm_tile_of<V, R, 4>(partial);
    case 5:
      return sddmm_tile_of<V, R, 5>(partial);
    case 6:
      return sddmm_tile_of<V, R, 6>(partial);
    case 7:
      return sddmm_tile_of<V, R, 7>(partial);
    default:
      return sddmm_tile_of<V, R, 8>(partial);
  }
}

template <int V>
SPARSETRAIN_TARGET SddmmTile sddmm_tile_of(int lines, int registers, bool partial) {
  if (lines == 4) return sddmm_tile_of<V, 4>(registers, partial);
  return lines == 2 ? sddmm_tile_of<V, 2>(registers, partial)
                    : sddmm_tile_of<V, 1>(registers, partial);
}

template <int V>
SPARSETRAIN_TARGET void sddmm_lines(const SddmmJob& job, const int64_t (&at)[2], int lines,
                                    const int64_t (&groups)[2], int most) {
  const SpmmShape& s = job.shape;
  const int64_t x_at = at[0] * s.x_block + at[1] * s.x_line;
  const int64_t y_at = at[0] * s.y_block + at[1] * s.y_line;
  const int64_t all = (s.run + kWidth - 1) / kWidth, chunks = (all + most - 1) / most;
  for (int64_t c = 0, from = 0; c < chunks; c++) {
    const int count = int((all - from + chunks - c - 1) / (chunks - c));
    const int tail = int(std::min<int64_t>(kWidth, s.run - (from + count - 1) * kWidth));
    const SddmmTile tile = sddmm_tile_of<V>(lines, count, tail < kWidth);
    for (int64_t segment = 0; segment < s.segments; segment++)
      for (int64_t g = groups[0]; g < groups[1]; g++)
        tile(job, segment, g, job.x + x_at + from * kWidth, y_at + from * kWidth, tail);
    from += count;
  }
}

template <int V, typename Parallel>
void sddmm_of(const SddmmJob& job, int threads, Parallel parallel) {
  const SpmmShape& s = job.shape;
  const int64_t all = (s.run + kWidth - 1) / kWidth;
  const int most = int(std::min<int64_t>({all, sddmm_held(V), 8}));
  int lines = 4;
  while (lines > 1 && (lines * most > sddmm_held(V) || lines > s.lines)) lines /= 2;
  const int64_t parts = std::min<int64_t>(s.groups, threads);
  parallel(parts, [&](int64_t begin, int64_t end) {
    const int64_t groups[2] = {s.groups * begin / parts, s.groups * end / parts};
    for (int64_t block = 0; block < s.blocks; block++)
      for (int64_t line = 0, step = lines; line < s.lines; step /= 2)
        for (; line + step <= s.lines; line += step) {
          const int64_t at[2] = {block, line};
          sddmm_lines<V>(job, at, int(step), groups, most);
        }
  });
}

template <typename Parallel>
void sddmm_on(const SddmmJob& job, int v, int threads, Parallel parallel) {
  if (v == 1) return sddmm_of<1>(job, threads, parallel);
  if (v == 4) return sddmm_of<4>(job, threads, parallel);
  if (v == 8) return sddmm_of<8>(job, threads, parallel);
  sddmm_of<16>(job, threads, parallel);
}
