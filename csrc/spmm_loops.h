// The loops of spmm.h for one instruction set: see vec.h and each_isa.h.

// The sums of a tile between segments, from its first line and channel on: in y itself where y is
// fp32, so that no sum is rounded twice.
struct SpmmSums {
  float* at;
  int64_t channel, line;
};

// Where a tile reads and writes: x and y of its first line and channel, and what of the entries and
// groups it is for. The last register of a line has `tail` numbers.
template <typename T>
struct SpmmTile {
  const T* x;
  SpmmSums sums;
  int64_t y_at, segment, begin, end;
  int tail;
};

// Sums may fill three quarters of the registers; the rest hold x, the value and addresses.
template <typename T, int V>
using SpmmVec = VecOf<T, 2 * V <= kRegisters * 3 / 4>;

// R lines, P registers each, of the V channels of one group.
template <int V, int R, int P, bool partial, typename T>
SPARSETRAIN_TARGET [[gnu::always_inline]] inline void spmm_group(const SpmmJob<T>& job,
                                                                 const SpmmTile<T>& tile,
                                                                 int64_t group) {
  const SpmmShape& s = job.shape;
  const int32_t* start = job.entries.start + tile.segment * s.groups + group;
  const int64_t begin = start[0], end = start[1];
  const bool first = tile.segment == 0, last = tile.segment == s.segments - 1;
  if (begin == end && !first && !last) return;
  const int64_t channel = group * V;
  const int live = int(std::min<int64_t>(V, s.channels - channel));
  T* y = job.output.y + tile.y_at + channel * s.y_channel;
  float* sums = tile.sums.at + (channel - tile.begin * V) * tile.sums.channel;
  using Vec = typename SpmmVec<T, V>::Vec;
  constexpr int N = SpmmVec<T, V>::kNumbers;
  Vec sum[V][R][P];
  for (int v = 0; v < V; v++)
    for (int r = 0; r < R; r++)
      for (int p = 0; p < P; p++) {
        const float* from = sums + v * tile.sums.channel + r * tile.sums.line + p * N;
        if (first || v >= live)
          set(sum[v][r][p], job.output.bias && v < live ? job.output.bias[channel + v] : 0);
        else
          get(sum[v][r][p], from, partial && p == P - 1 ? tile.tail : N);
      }
  if (first)
    for (int v = 0; v < live; v++)
      for (int r = 0; r < R; r++) prefetch(y + v * s.y_channel + r * s.y_line + P * N - 1);
  const int32_t* offset = job.entries.offset;
  const float* value = job.entries.value;
  for (int64_t k = begin; k < end; k++) {
    const T* at = tile.x + offset[k];
    Vec in[R][P];
    for (int r = 0; r < R; r++) {
      prefetch(at + r * s.x_line + 2 * P * N - 1);
      for (int p = 0; p < P; p++) {
        const T* from = at + r * s.x_line + p * N;
        get(in[r][p], from, partial && p == P - 1 ? tile.tail : N);
      }
    }
    for (int v = 0; v < V; v++) {
      const Reg w = broadcast(value[k * V + v]);
      for (int r = 0; r < R; r++)
        for (int p = 0; p < P; p++) sum[v][r][p] = multiply_add(w, in[r][p], sum[v][r][p]);
    }
  }
  for (int v = 0; v < live; v++)
    for (int r = 0; r < R; r++)
      for (int p = 0; p < P; p++) {
        const int n = partial && p == P - 1 ? tile.tail : N;
        Vec out = sum[v][r][p], other;
        if (!last) {
          put(sums + v * tile.sums.channel + r * tile.sums.line + p * N, out, n);
          continue;
        }
        const int64_t at = v * s.y_channel + r * s.y_line + p * N;
        if (job.output.residual) {
          get(other, job.output.residual + (y - job.output.y) + at, n);
          out = add(out, other);
        }
        if (job.output.relu) out = relu(out);
        put(y + at, out, n);
      }
}

template <int V, int R, int P, bool partial, typename T>
SPARSETRAIN_TARGET void spmm_groups(const SpmmJob<T>& job, const SpmmTile<T>& tile) {
  for (int64_t g = tile.begin; g < tile.end; g++) spmm_group<V, R, P, partial>(job, tile, g);
}

template <typename T>
using SpmmGroups = void (*)(const SpmmJob<T>&, const SpmmTile<T>&);

// Vectors of a channel's sums.
template <typename T, int V>
constexpr int kSpmmMost = std::max(1, kRegisters * 3 / 4 / V / SpmmVec<T, V>::kRegs);

template <typename T, int V, int R, int P>
SPARSETRAIN_TARGET SpmmGroups<T> spmm_groups_of(bool partial) {
  if constexpr (R * P <= kSpmmMost<T, V>)
    return partial ? spmm_groups<V, R, P, true, T> : spmm_groups<V, R, P, false, T>;
  else
    return nullptr;
}

template <typename T, int V, int R>
SPARSETRAIN_TARGET SpmmGroups<T> spmm_groups_of(int registers, bool partial) {
  switch (registers) {
    case 1:
      return spmm_groups_of<T, V, R, 1>(partial);
    case 2:
      return spmm_groups_of<T, V, R, 2>(partial);
    case 3:
      return spmm_groups_of<T, V, R, 3>(partial);
    case 4:
      return spmm_groups_of<T, V, R, 4>(partial);
    case 5:
      return spmm_groups_of<T, V, R, 5>(partial);
    case 6:
      return spmm_groups_of<T, V, R, 6>(partial);
    case 7:
      return spmm_groups_of<T, V, R, 7>(partial);
    default:
      return spmm_groups_of<T, V, R, 8>(partial);
  }
}

template <typename T, int V>
SPARSETRAIN_TARGET SpmmGroups<T> spmm_groups_of(int lines, int registers, bool partial) {
  if (lines == 4) return spmm_groups_of<T, V, 4>(registers, partial);
  return lines == 2 ? spmm_groups_of<T, V, 2>(registers, partial)
                    : spmm_groups_of<T, V, 1>(registers, partial);
}

// Groups [begin, end) of `lines` lines from `line` on of one block: chunk by chunk, so that the
// window of x that a chunk needs stays in cache while all channels pass.
template <int V, typename T>
SPARSETRAIN_TARGET void spmm_lines(const SpmmJob<T>& job, const int64_t (&at)[2], int lines,
                                   const int64_t (&groups)[2], int most, float* scratch) {
  const SpmmShape& s = job.shape;
  const int64_t x_at = at[0] * s.x_block + at[1] * s.x_line;
  const int64_t y_at = at[0] * s.y_block + at[1] * s.y_line;
  constexpr int N = SpmmVec<T, V>::kNumbers;
  const int64_t all = (s.run + N - 1) / N, chunks = (all + most - 1) / most;
  for (int64_t c = 0, from = 0; c < chunks; c++) {
    const int count = int((all - from + chunks - c - 1) / (chunks - c));
    const int tail = int(std::min<int64_t>(N, s.run - (from + count - 1) * N));
    const SpmmGroups<T> run = spmm_groups_of<T, V>(lines, count, tail < N);
    SpmmTile<T> tile{job.x + x_at + from * N,
                     {scratch, lines * most * N, most * N},
                     y_at + from * N,
                     0,
                     groups[0],
                     groups[1],
                     tail};
    if constexpr (std::is_same_v<T, float>)
      tile.sums = {job.output.y + tile.y_at + groups[0] * V * s.y_channel, s.y_channel, s.y_line};
    for (; tile.segment < s.segments; tile.segment++) run(job, tile);
    from += count;
  }
}

template <int V, typename T, typename Parallel>
void spmm_of(const SpmmJob<T>& job, int threads, Parallel parallel) {
  const SpmmShape& s = job.shape;
  constexpr int N = SpmmVec<T, V>::kNumbers, registers = kSpmmMost<T, V>;
  const int64_t all = (s.run + N - 1) / N;
  int most = int(std::min<int64_t>({all, registers, 8}));
  // Long lines are not in L1 from one chunk to the next: there a chunk is whole lines of the cache.
  constexpr int kCacheLine = std::max(1, 64 / int(N * sizeof(T)));
  if (all > 32 && most > kCacheLine) most -= most % kCacheLine;
  int lines = 4;  // as many as registers and lines allow
  while (lines > 1 && (lines * most > registers || lines > s.lines)) lines /= 2;
  const int64_t tiles = (s.lines + lines - 1) / lines, items = s.blocks * tiles;
  const int64_t wanted = items % threads == 0 ? 1 : (4 * threads + items - 1) / items;
  const int64_t parts = std::max<int64_t>(1, std::min(wanted, s.groups));
  // Numbers of a tile's sums, where these are not in y.
  const bool in_y = std::is_same_v<T, float> || s.segments == 1;
  const int64_t scratch = in_y ? 0 : (s.groups + parts - 1) / parts * V * lines * most * N;
  parallel(items * parts, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<float[]> sums(scratch ? new float[scratch] : nullptr);
    for (int64_t i = begin; i < end; i++) {
      const int64_t item = i / parts, part = i % parts, block = item / tiles;
      const int64_t groups[2] = {s.groups * part / parts, s.groups * (part + 1) / parts};
      int64_t line = item % tiles * lines;
      const int64_t stop = std::min(s.lines, line + lines);
      for (int step = lines; line < stop; step = step / 2)
        for (; line + step <= stop; line += step) {
          const int64_t at[2] = {block, line};
          spmm_lines<V>(job, at, step, groups, most, sums.get());
        }
    }
  });
}

template <typename T, typename Parallel>
void spmm_on(const SpmmJob<T>& job, int v, int threads, Parallel parallel) {
  if (v == 1) return spmm_of<1>(job, threads, parallel);
  if (v == 4) return spmm_of<4>(job, threads, parallel);
  if (v == 8) return spmm_of<8>(job, threads, parallel);
  spmm_of<16>(job, threads, parallel);
}
