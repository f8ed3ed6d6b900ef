// The loops of spmv.h for one instruction set: see vec.h and each_isa.h.

// Entries whose values fill a register, registers that an entry's values fill, and sums that are
// held apart, so that additions do not wait for each other.
template <int V>
struct SpmvTile {
  static constexpr int entries = std::max(1, kWidth / V), registers = std::max(1, V / kWidth);
  static constexpr int sums = std::max(1, 4 / (entries * registers));
};

// total[v] += value[k, v] * x[offset[k]] over the entries begin <= k < end.
template <int V>
SPARSETRAIN_TARGET [[gnu::always_inline]] inline void spmv_add(const SpmvJob& job, const float* x,
                                                               int64_t begin, int64_t end,
                                                               float* total) {
  constexpr int E = SpmvTile<V>::entries, P = SpmvTile<V>::registers, S = SpmvTile<V>::sums;
  const int32_t* offset = job.offset;
  const float* value = job.value;
  Reg sum[S][P];
  for (int s = 0; s < S; s++)
    for (int p = 0; p < P; p++) sum[s][p] = broadcast(0);
  int64_t k = begin;
  for (; k + S * E <= end; k += S * E)
    for (int s = 0; s < S; s++) {
      const Reg in = each<V>(x, offset + k + s * E);
      for (int p = 0; p < P; p++)
        sum[s][p] = multiply_add(load(value + (k + s * E) * V + p * kWidth), in, sum[s][p]);
    }
  for (int s = 1; s < S; s++)
    for (int p = 0; p < P; p++) sum[0][p] = add(sum[0][p], sum[s][p]);
  float lane[E * V];
  for (int p = 0; p < P; p++) store(lane + p * kWidth, sum[0][p]);
  for (int n = E / 2; n > 0; n /= 2)
    for (int i = 0; i < n * V; i++) lane[i] += lane[n * V + i];
  for (; k < end; k++)
    for (int v = 0; v < V; v++) lane[v] += value[k * V + v] * x[offset[k]];
  for (int v = 0; v < V; v++) total[v] += lane[v];
}

// Groups [begin, end) of all rows.
template <int V>
SPARSETRAIN_TARGET void spmv_groups(const SpmvJob& job, int64_t begin, int64_t end) {
  for (int64_t g = begin; g < end; g++) {
    const int64_t channel = g * V, live = std::min<int64_t>(V, job.channels - channel);
    for (int64_t r = 0; r < job.rows; r++) {
      float total[V] = {};
      if (job.bias) std::copy_n(job.bias + channel, live, total);
      for (int64_t s = 0; s < job.segments; s++) {
        const int32_t* start = job.start + s * job.groups + g;
        spmv_add<V>(job, job.x + r * job.inputs, start[0], start[1], total);
      }
      std::copy_n(total, live, job.y + r * job.channels + channel);
    }
  }
}

SPARSETRAIN_TARGET inline void spmv_on(const SpmvJob& job, int v, int64_t begin, int64_t end) {
  if (v == 1) return spmv_groups<1>(job, begin, end);
  if (v == 4) return spmv_groups<4>(job, begin, end);
  if (v == 8) return spmv_groups<8>(job, begin, end);
  spmv_groups<16>(job, begin, end);
}
