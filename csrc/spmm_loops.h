// The loops of spmm.h for one instruction set: see vec.h and each_isa.h.

// Where a tile reads and writes: x and y of its first line and channel, and what of the entries and
// groups it is for. The last register of a line has `tail` numbers. `sums` keeps those of all
// groups from one segment to the next, in fp32, so that none is rounded twice.
template <typename T>
struct SpmmTile {
  const T* x;
  float* sums;
  int64_t y_at, segment, begin, end;
  int tail;
};

// A chunk of a line: in a line that is too long for the cache, whole, or with a last register of
// `tail` numbers.
enum class Chunk { kFar, kWhole, kPart };

template <typename T>
using SpmmVec = VecOf<T, true>;

// Channels of one pass over the entries of a group, and registers, or pairs, for the sums of
// each; the rest hold x, the value and addresses.
constexpr int spmm_channels(int v) { return std::min(v, kRegisters / 4); }
template <typename T>
constexpr int spmm_registers(int v) {
  return std::min(kRegisters * 3 / 4 / spmm_channels(v) / SpmmVec<T>::kRegs, 8);
}

// Sums of C channels, R lines and P registers. Loops over them unroll, or else they would lie in
// memory.
template <typename T, int C, int R, int P>
struct SpmmSums {
  static constexpr int kCount = C * R * P, N = SpmmVec<T>::kNumbers;
  typename SpmmVec<T>::Vec at[kCount];

  static constexpr int channel(int i) { return i / (R * P); }
  static constexpr int line(int i) { return i / P % R; }
  static constexpr int column(int i) { return i % P; }
};

// As they are before the entries of the tile's segment; `live` channels from `channel` on are
// there.
template <int C, int R, int P, typename T>
SPARSETRAIN_TARGET [[gnu::always_inline]] inline void spmm_begin(const SpmmJob<T>& job,
                                                                 const SpmmTile<T>& tile,
                                                                 const float* kept, int64_t channel,
                                                                 int live,
                                                                 SpmmSums<T, C, R, P>& sum) {
  if (tile.segment > 0) {
    SPARSETRAIN_UNROLL
    for (int i = 0; i < sum.kCount; i++) get(sum.at[i], kept + i * sum.N, sum.N);
    return;
  }
  const float* bias = job.output.bias ? job.output.bias + channel : nullptr;
  SPARSETRAIN_UNROLL
  for (int i = 0; i < sum.kCount; i++)
    set(sum.at[i], bias && sum.channel(i) < live ? bias[sum.channel(i)] : 0);
}

// Adds entries [begin, end), of their V values those from `first` on.
template <int V, int C, int R, int P, Chunk chunk, typename T>
SPARSETRAIN_TARGET [[gnu::always_inline]] inline void spmm_add(const SpmmJob<T>& job,
                                                               const SpmmTile<T>& tile,
                                                               int64_t begin, int64_t end,
                                                               int64_t first,
                                                               SpmmSums<T, C, R, P>& sum) {
  const int32_t* offset = job.entries.offset;
  const float* value = job.entries.value + first;
  constexpr int N = SpmmVec<T>::kNumbers;
  for (int64_t k = begin; k < end; k++) {
    const T* at = tile.x + offset[k];
    if (chunk == Chunk::kFar)
      for (int r = 0; r < R; r++) prefetch(at + r * job.shape.x_line + 2 * P * N - 1);
    typename SpmmVec<T>::Vec in[R * P];
    SPARSETRAIN_UNROLL
    for (int i = 0; i < R * P; i++) {
      const T* from = at + i / P * job.shape.x_line + i % P * N;
      get(in[i], from, chunk == Chunk::kPart && i % P == P - 1 ? tile.tail : N);
    }
    SPARSETRAIN_UNROLL
    for (int c = 0; c < C; c++) {
      const Reg w = broadcast(value[k * V + c]);
      SPARSETRAIN_UNROLL
      for (int i = 0; i < R * P; i++)
        sum.at[c * R * P + i] = multiply_add(w, in[i], sum.at[c * R * P + i]);
    }
  }
}

// Writes y: the least of `most` and relu(sums + residual).
template <int C, int R, int P, Chunk chunk, typename T>
SPARSETRAIN_TARGET [[gnu::always_inline]] inline void spmm_end(const SpmmJob<T>& job,
                                                               const SpmmTile<T>& tile,
                                                               int64_t channel, int live,
                                                               SpmmSums<T, C, R, P>& sum) {
  const SpmmShape& s = job.shape;
  const int64_t y_at = tile.y_at + channel * s.y_channel;
  if (job.output.residual) {
    SPARSETRAIN_UNROLL
    for (int i = 0; i < sum.kCount; i++) {
      if (sum.channel(i) >= live) continue;
      const bool part = chunk == Chunk::kPart && sum.column(i) == P - 1;
      const T* from = job.output.residual + y_at + sum.channel(i) * s.y_channel +
                      sum.line(i) * s.y_line + sum.column(i) * sum.N;
      typename SpmmVec<T>::Vec other;
      get(other, from, part ? tile.tail : sum.N);
      sum.at[i] = add(sum.at[i], other);
    }
  }
  if (job.output.relu) {
    SPARSETRAIN_UNROLL
    for (int i = 0; i < sum.kCount; i++) sum.at[i] = relu(sum.at[i]);
    if (job.output.most < std::numeric_limits<float>::infinity()) {
      const Reg most = broadcast(job.output.most);
      SPARSETRAIN_UNROLL
      for (int i = 0; i < sum.kCount; i++) sum.at[i] = least(most, sum.at[i]);
    }
  }
  T* y = job.output.y + y_at;
  SPARSETRAIN_UNROLL
  for (int i = 0; i < sum.kCount; i++) {
    if (sum.channel(i) >= live) continue;
    const bool part = chunk == Chunk::kPart && sum.column(i) == P - 1;
    T* to = y + sum.channel(i) * s.y_channel + sum.line(i) * s.y_line + sum.column(i) * sum.N;
    put(to, sum.at[i], part ? tile.tail : sum.N);
  }
}

template <int V, int R, int P, Chunk chunk, typename T>
SPARSETRAIN_TARGET void spmm_groups(const SpmmJob<T>& job, const SpmmTile<T>& tile) {
  constexpr int C = spmm_channels(V);
  const int64_t channels = std::min(tile.end * V, job.shape.channels);
  const int64_t last = job.shape.segments - 1;
  const int32_t* start = job.entries.start + tile.segment * job.shape.groups;
  float* kept = tile.sums;
  for (int64_t channel = tile.begin * V; channel < channels;
       channel += C, kept += C * R * P * SpmmVec<T>::kNumbers) {
    const int64_t begin = start[channel / V], end = start[channel / V + 1];
    if (begin == end && tile.segment > 0 && tile.segment < last) continue;
    const int live = int(std::min<int64_t>(C, channels - channel));
    SpmmSums<T, C, R, P> sum;
    spmm_begin(job, tile, kept, channel, live, sum);
    spmm_add<V, C, R, P, chunk>(job, tile, begin, end, channel % V, sum);
    if (tile.segment == last) {
      spmm_end<C, R, P, chunk>(job, tile, channel, live, sum);
      continue;
    }
    SPARSETRAIN_UNROLL
    for (int i = 0; i < sum.kCount; i++) put(kept + i * sum.N, sum.at[i], sum.N);
  }
}

template <typename T>
using SpmmGroups = void (*)(const SpmmJob<T>&, const SpmmTile<T>&);

template <typename T, int V, int R, int P>
SPARSETRAIN_TARGET SpmmGroups<T> spmm_groups_of(Chunk chunk) {
  if constexpr (R * P > spmm_registers<T>(V))
    return nullptr;
  else if (chunk == Chunk::kPart)
    return spmm_groups<V, R, P, Chunk::kPart, T>;
  else if (chunk == Chunk::kFar)
    return spmm_groups<V, R, P, Chunk::kFar, T>;
  else
    return spmm_groups<V, R, P, Chunk::kWhole, T>;
}

template <typename T, int V, int R>
SPARSETRAIN_TARGET SpmmGroups<T> spmm_groups_of(int registers, Chunk chunk) {
  switch (registers) {
    case 1:
      return spmm_groups_of<T, V, R, 1>(chunk);
    case 2:
      return spmm_groups_of<T, V, R, 2>(chunk);
    case 3:
      return spmm_groups_of<T, V, R, 3>(chunk);
    case 4:
      return spmm_groups_of<T, V, R, 4>(chunk);
    case 5:
      return spmm_groups_of<T, V, R, 5>(chunk);
    case 6:
      return spmm_groups_of<T, V, R, 6>(chunk);
    case 7:
      return spmm_groups_of<T, V, R, 7>(chunk);
    default:
      return spmm_groups_of<T, V, R, 8>(chunk);
  }
}

template <typename T, int V>
SPARSETRAIN_TARGET SpmmGroups<T> spmm_groups_of(int lines, int registers, Chunk chunk) {
  if (lines == 4) return spmm_groups_of<T, V, 4>(registers, chunk);
  return lines == 2 ? spmm_groups_of<T, V, 2>(registers, chunk)
                    : spmm_groups_of<T, V, 1>(registers, chunk);
}

constexpr int64_t kNear = 4;  // chunks of a line that stay in cache

// Groups [begin, end) of `lines` lines from `line` on of one block: chunk by chunk, so that the
// window of x that a chunk needs stays in cache while all channels pass.
template <int V, typename T>
SPARSETRAIN_TARGET void spmm_lines(const SpmmJob<T>& job, const int64_t (&at)[2], int lines,
                                   const int64_t (&groups)[2], int most, float* sums) {
  const SpmmShape& s = job.shape;
  const int64_t x_at = at[0] * s.x_block + at[1] * s.x_line;
  const int64_t y_at = at[0] * s.y_block + at[1] * s.y_line;
  constexpr int N = SpmmVec<T>::kNumbers;
  const int64_t all = (s.run + N - 1) / N, chunks = (all + most - 1) / most;
  for (int64_t c = 0, from = 0; c < chunks; c++) {
    const int count = int((all - from + chunks - c - 1) / (chunks - c));
    const int tail = int(std::min<int64_t>(N, s.run - (from + count - 1) * N));
    const Chunk chunk = tail < N ? Chunk::kPart : chunks > kNear ? Chunk::kFar : Chunk::kWhole;
    const SpmmGroups<T> run = spmm_groups_of<T, V>(lines, count, chunk);
    SpmmTile<T> tile{job.x + x_at + from * N, sums, y_at + from * N, 0, groups[0], groups[1], tail};
    for (; tile.segment < s.segments; tile.segment++) run(job, tile);
    from += count;
  }
}

template <int V, typename T, typename Parallel>
void spmm_of(const SpmmJob<T>& job, int threads, Parallel parallel) {
  const SpmmShape& s = job.shape;
  constexpr int N = SpmmVec<T>::kNumbers, registers = spmm_registers<T>(V);
  const int64_t all = (s.run + N - 1) / N;
  int most = int(std::min<int64_t>(all, registers));
  // Long lines are not in L1 from one chunk to the next: there a chunk is whole lines of the cache.
  constexpr int kCacheLine = std::max(1, 64 / int(N * sizeof(T)));
  if (all > 32 && most > kCacheLine) most -= most % kCacheLine;
  int lines = 4;  // as many as registers and lines allow
  while (lines > 1 && (lines * most > registers || lines > s.lines)) lines /= 2;
  const int64_t tiles = (s.lines + lines - 1) / lines, items = s.blocks * tiles;
  const int64_t wanted = items % threads == 0 ? 1 : (4 * threads + items - 1) / items;
  const int64_t parts = std::max<int64_t>(1, std::min(wanted, s.groups));
  const int64_t kept = (s.groups + parts - 1) / parts * V * lines * most * N;
  parallel(items * parts, [&](int64_t begin, int64_t end) {
    float* const sums = s.segments > 1 ? spmm_sums(kept) : nullptr;
    for (int64_t i = begin; i < end; i++) {
      const int64_t item = i / parts, part = i % parts, block = item / tiles;
      const int64_t groups[2] = {s.groups * part / parts, s.groups * (part + 1) / parts};
      int64_t line = item % tiles * lines;
      const int64_t stop = std::min(s.lines, line + lines);
      for (int step = lines; line < stop; step = step / 2)
        for (; line + step <= stop; line += step) {
          const int64_t at[2] = {block, line};
          spmm_lines<V>(job, at, step, groups, most, sums);
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
