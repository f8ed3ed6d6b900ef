// The loops of sddmm.h for one instruction set: see vec.h and each_isa.h.

// A part of dy and x: `lines` lines of `registers` registers, the last with `tail` numbers.
struct SddmmTile {
  int lines, registers, tail;
};

// Channels of one pass, and entries that are summed at a time; their sums fill half the registers.
constexpr int sddmm_channels(int v) { return std::min(v, 8); }
constexpr int sddmm_entries(int v) { return std::max(1, kRegisters / 2 / std::max(v, 2)); }

// The sums of all entries, dy of all channels and x of an entry share the registers.
template <typename T, int V>
using SddmmVec = VecOf<T, (sddmm_entries(V) + 2) * sddmm_channels(V) + 2 <= kRegisters>;

// sum[e][c] = sum over the tile of dy[c] * x[e].
template <typename Of, int C, int E, bool partial, typename T>
SPARSETRAIN_TARGET void sddmm_sums(const SpmmShape& s, const SddmmTile& tile,
                                   const T* const (&x)[E], const T* dy, Reg (&sum)[E][C]) {
  constexpr int N = Of::kNumbers;
  Reg part[E][C];
  for (int e = 0; e < E; e++)
    for (int c = 0; c < C; c++) part[e][c] = broadcast(0);
  const int full = partial ? tile.registers - 1 : tile.registers;
  for (int r = 0; r < tile.lines; r++) {
    const int64_t x_line = r * s.x_line, dy_line = r * s.y_line;
    for (int p = 0; p < full; p++) {
      typename Of::Vec at[C], in;
      for (int c = 0; c < C; c++) get(at[c], dy + dy_line + c * s.y_channel + p * N, N);
      for (int e = 0; e < E; e++) {
        get(in, x[e] + x_line + p * N, N);
        for (int c = 0; c < C; c++) part[e][c] = multiply_add(at[c], in, part[e][c]);
      }
    }
    if (!partial) continue;
    for (int e = 0; e < E; e++) {
      typename Of::Vec at, in;
      get(in, x[e] + x_line + full * N, tile.tail);
      for (int c = 0; c < C; c++) {
        get(at, dy + dy_line + c * s.y_channel + full * N, tile.tail);
        part[e][c] = multiply_add(at, in, part[e][c]);
      }
    }
  }
  for (int e = 0; e < E; e++)
    for (int c = 0; c < C; c++) sum[e][c] = part[e][c];
}

// dvalue of the first `count` of entries k, k + 1, ... of a group whose channels are all there;
// `first` is the first of the C channels of this pass.
template <int V, int C, int E, bool partial, typename T>
SPARSETRAIN_TARGET void sddmm_block(const SddmmJob<T>& job, const SddmmTile& tile, int64_t k,
                                    int count, const T* x, const T* dy, int first) {
  const T* from[E];
  for (int e = 0; e < E; e++) from[e] = x + job.offset[k + std::min(e, count - 1)];
  Reg sum[E][C];
  sddmm_sums<SddmmVec<T, V>, C, E, partial>(job.shape, tile, from, dy, sum);
  if constexpr (C >= 4) {
    for (int e = 0; e < E; e++) {
      if (e == count) break;
      for (int c = 0; c < C; c += 4) add_sums(sum[e] + c, job.dvalue + (k + e) * V + first + c);
    }
  } else {
    for (int e = 0; e < E; e += 4) {
      const Reg four[4] = {sum[e][0], sum[e + 1][0], sum[e + 2][0], sum[e + 3][0]};
      float total[4] = {};
      add_sums(four, total);
      for (int j = e; j < std::min(e + 4, count); j++) job.dvalue[k + j] += total[j - e];
    }
  }
}

template <int V, int C, bool partial, typename T>
SPARSETRAIN_TARGET void sddmm_group(const SddmmJob<T>& job, const SddmmTile& tile,
                                    const int64_t (&range)[2], const T* x, const T* dy, int first) {
  constexpr int E = sddmm_entries(V), half = std::max(V == 1 ? 4 : 1, E / 2);
  for (int64_t k = range[0]; k < range[1]; k += E) {
    const int count = int(std::min<int64_t>(E, range[1] - k));
    if (count > half)
      sddmm_block<V, C, E, partial>(job, tile, k, count, x, dy, first);
    else
      sddmm_block<V, C, half, partial>(job, tile, k, count, x, dy, first);
  }
}

// The same for the last group where v does not divide the channels: one channel at a time.
template <typename Of, typename T>
SPARSETRAIN_TARGET void sddmm_rest(const SddmmJob<T>& job, const SddmmTile& tile, int v,
                                   const int64_t (&range)[2], const T* x, const T* dy,
                                   int channels) {
  for (int64_t k = range[0]; k < range[1]; k++)
    for (int c = 0; c < channels; c++) {
      const T* const from[1] = {x + job.offset[k]};
      Reg sum[1][1];
      sddmm_sums<Of, 1, 1, true>(job.shape, tile, from, dy + c * job.shape.y_channel, sum);
      Reg four[4] = {sum[0][0], broadcast(0), broadcast(0), broadcast(0)};
      float total[4] = {};
      add_sums(four, total);
      job.dvalue[k * v + c] += total[0];
    }
}

template <int V, typename T>
SPARSETRAIN_TARGET void sddmm_tile(const SddmmJob<T>& job, const SddmmTile& tile, int64_t x_at,
                                   int64_t dy_at, const int64_t (&groups)[2]) {
  const SpmmShape& s = job.shape;
  constexpr int C = sddmm_channels(V);
  for (int64_t segment = 0; segment < s.segments; segment++)
    for (int64_t g = groups[0]; g < groups[1]; g++) {
      const int32_t* start = job.start + segment * s.groups + g;
      const int64_t range[2] = {start[0], start[1]};
      const T* x = job.x + x_at;
      const T* dy = job.dy + dy_at + g * V * s.y_channel;
      if ((g + 1) * V > s.channels) {
        sddmm_rest<SddmmVec<T, V>>(job, tile, V, range, x, dy, int(s.channels - g * V));
        continue;
      }
      for (int c = 0; c < V; c += C)
        if (tile.tail < SddmmVec<T, V>::kNumbers)
          sddmm_group<V, C, true>(job, tile, range, x, dy + c * s.y_channel, c);
        else
          sddmm_group<V, C, false>(job, tile, range, x, dy + c * s.y_channel, c);
    }
}

// A tile has about kTile registers of each channel: enough to pay for the reduction across lanes,
// few enough for L1 to hold what a segment reads.
template <int V, typename T, typename Parallel>
void sddmm_of(const SddmmJob<T>& job, int threads, Parallel parallel) {
  constexpr int64_t kTile = 32, kColumns = 16;
  const SpmmShape& s = job.shape;
  constexpr int N = SddmmVec<T, V>::kNumbers;
  const int64_t all = (s.run + N - 1) / N;
  const int64_t most = std::min(all, kColumns);
  const int64_t lines = std::min(s.lines, std::max<int64_t>(1, kTile / most));
  const int64_t chunks = (all + most - 1) / most, parts = std::min<int64_t>(s.groups, threads);
  parallel(parts, [&](int64_t begin, int64_t end) {
    const int64_t groups[2] = {s.groups * begin / parts, s.groups * end / parts};
    for (int64_t block = 0; block < s.blocks; block++)
      for (int64_t line = 0; line < s.lines; line += lines)
        for (int64_t c = 0; c < chunks; c++) {
          const int64_t from = all * c / chunks, count = all * (c + 1) / chunks - from;
          const int tail = int(std::min<int64_t>(N, s.run - (from + count - 1) * N));
          const SddmmTile tile{int(std::min(lines, s.lines - line)), int(count), tail};
          sddmm_tile<V>(job, tile, block * s.x_block + line * s.x_line + from * N,
                        block * s.y_block + line * s.y_line + from * N, groups);
        }
  });
}

template <typename T, typename Parallel>
void sddmm_on(const SddmmJob<T>& job, int v, int threads, Parallel parallel) {
  if (v == 1) return sddmm_of<1>(job, threads, parallel);
  if (v == 4) return sddmm_of<4>(job, threads, parallel);
  if (v == 8) return sddmm_of<8>(job, threads, parallel);
  sddmm_of<16>(job, threads, parallel);
}
