// The loops of depthwise.h for one instruction set: see vec.h and each_isa.h.

constexpr int kDepthwiseRegs = 8;  // sums at a time: as many as hide what a multiply-add takes

// Loads are at constant distances from it: else gcc keeps the address of each in the stack.
SPARSETRAIN_TARGET [[gnu::always_inline]] inline const float* one_address(const float* p) {
#if defined(__GNUC__) || defined(__clang__)
  asm("" : "+r"(p));
#endif
  return p;
}

// Of K columns of the kernel, or of any where K is 0; registers of x are S apart, and those of y
// side by side, or as they are where S is 0.
template <int P, int K, int S>
SPARSETRAIN_TARGET void depthwise_some(const DepthwiseTaps& t, const DepthwiseEnd& end,
                                       const DepthwiseRun& run, bool last) {
  const int64_t x_step = S ? S * kWidth : run.x_step, y_step = S ? kWidth : run.y_step;
  Reg sum[P];
  SPARSETRAIN_UNROLL
  for (int p = 0; p < P; p++) sum[p] = broadcast(end.bias);
  for (int64_t r = t.first; r < t.last; r++) {
    const float *x = t.x[r] + run.at, *weight = t.weight + r * t.columns;
    const int64_t left = K ? 0 : t.left, right = K ? K : t.right;
    for (int64_t c = left; c < right; c++) {
      const Reg w = broadcast(weight[c]);
      const float* from = one_address(x + t.tap[c]);
      SPARSETRAIN_UNROLL
      for (int p = 0; p < P; p++) sum[p] = multiply_add(w, load(from + p * x_step), sum[p]);
    }
  }
  if (end.relu) {
    const Reg most = broadcast(end.most);
    SPARSETRAIN_UNROLL
    for (int p = 0; p < P; p++) sum[p] = least(most, relu(sum[p]));
  }
  SPARSETRAIN_UNROLL
  for (int p = 0; p < P; p++) {
    if (p == P - 1 && last && run.tail < kWidth)
      store_first(run.y + p * y_step, sum[p], run.tail);
    else
      store(run.y + p * y_step, sum[p]);
  }
}

using DepthwiseSome = void (*)(const DepthwiseTaps&, const DepthwiseEnd&, const DepthwiseRun&,
                               bool);

template <int K, int S, int... P>
inline DepthwiseSome depthwise_some_of(int64_t count, std::integer_sequence<int, P...>) {
  constexpr DepthwiseSome kSome[] = {depthwise_some<P + 1, K, S>...};
  return kSome[count - 1];
}

template <int K, int S>
inline void depthwise_run_of(const DepthwiseTaps& taps, const DepthwiseEnd& end, DepthwiseRun run) {
  const std::make_integer_sequence<int, kDepthwiseRegs> all;
  int64_t chunks = (run.count + kDepthwiseRegs - 1) / kDepthwiseRegs;
  for (; chunks > 0; chunks--) {
    const int64_t count = chunks == 1 ? run.count : (run.count + chunks - 1) / chunks;
    depthwise_some_of<K, S>(count, all)(taps, end, run, count == run.count);
    run.count -= count, run.at += count * run.x_step, run.y += count * run.y_step;
  }
}

inline void depthwise_run(const DepthwiseTaps& taps, const DepthwiseEnd& end, DepthwiseRun run) {
  const bool three = taps.left == 0 && taps.right == 3, beside = run.y_step == kWidth;
  if (three && beside && run.x_step == kWidth) return depthwise_run_of<3, 1>(taps, end, run);
  if (three && beside && run.x_step == 2 * kWidth) return depthwise_run_of<3, 2>(taps, end, run);
  depthwise_run_of<0, 0>(taps, end, run);
}
