// The loops of softmax.h for one instruction set: see functions.h and each_isa.h.

#define SPARSETRAIN_INLINE SPARSETRAIN_TARGET [[gnu::always_inline]] inline

// n numbers and, behind them, -Inf.
SPARSETRAIN_INLINE Reg load_low(const float* p, int n) {
  if (n == kWidth) return load(p);
  float lane[kWidth];
  for (int i = 0; i < kWidth; i++) lane[i] = i < n ? p[i] : -INFINITY;
  return load(lane);
}
SPARSETRAIN_INLINE void store_some(float* p, Reg a, int n) {
  n == kWidth ? store(p, a) : store_first(p, a, n);
}

constexpr int64_t kFolded = 32;  // terms that are added to each other before they join the sum

struct FoldedSum {
  Reg sum, part;
  int64_t left = kFolded;

  SPARSETRAIN_INLINE FoldedSum() : sum(broadcast(0)), part(broadcast(0)) {}
  SPARSETRAIN_INLINE void add(Reg x) {
    part = part + x;
    if (--left) return;
    sum = total(), part = broadcast(0), left = kFolded;
  }
  SPARSETRAIN_INLINE Reg total() const { return sum + part; }
};

// One register of lanes. Without scores, where all are -Inf, a safe softmax is 0, another NaN.
template <bool logarithm, bool safe>
SPARSETRAIN_TARGET void softmax_column(const SoftmaxLanes& s, const float* x, float* y, int width) {
  Reg most = broadcast(-INFINITY);
  for (int64_t i = 0; i < s.n; i++) most = larger(load_low(x + i * s.x_step, width), most);
  if (safe) most = select(equal(most, broadcast(-INFINITY)), broadcast(0), most);
  FoldedSum terms;
  for (int64_t i = 0; i < s.n; i++) {
    const Reg e = exp_of(load_low(x + i * s.x_step, width) - most);
    if (!logarithm) store_some(y + i * s.y_step, e, width);
    terms.add(e);
  }
  const Reg sum = terms.total();
  const Reg less = logarithm ? log_of(sum) : sum;
  const Reg scale = select(equal(sum, broadcast(0)), broadcast(safe ? 0 : NAN), broadcast(1) / sum);
  for (int64_t i = 0; i < s.n; i++) {
    float* at = y + i * s.y_step;
    if (logarithm)
      store_some(at, load_low(x + i * s.x_step, width) - most - less, width);
    else
      store_some(at, load_low(at, width) * scale, width);
  }
}

template <bool logarithm, bool safe>
SPARSETRAIN_TARGET void softmax_lanes_of(const SoftmaxLanes& s) {
  for (int64_t l = 0; l < s.lanes; l += kWidth) {
    const int64_t left = s.lanes - l;
    const int width = left < kWidth ? int(left) : kWidth;
    softmax_column<logarithm, safe>(s, s.x + l, s.y + l, width);
  }
}

SPARSETRAIN_TARGET inline void softmax_lanes(const SoftmaxLanes& s, bool logarithm, bool safe) {
  if (safe) return softmax_lanes_of<false, true>(s);
  logarithm ? softmax_lanes_of<true, false>(s) : softmax_lanes_of<false, false>(s);
}

template <typename F>
SPARSETRAIN_INLINE float across(Reg a, const F& f) {
  float lane[kWidth];
  store(lane, a);
  float found = lane[0];
  for (int i = 1; i < kWidth; i++) found = f(found, lane[i]);
  return found;
}

// A run of n numbers side by side, of x and y.
SPARSETRAIN_TARGET inline void softmax_run(const float* x, float* y, int64_t n, bool logarithm) {
  const auto width = [&](int64_t i) { return n - i < kWidth ? int(n - i) : kWidth; };
  Reg high = broadcast(-INFINITY);
  for (int64_t i = 0; i < n; i += kWidth) high = larger(load_low(x + i, width(i)), high);
  const Reg most = broadcast(across(high, [](float a, float b) { return a < b ? b : a; }));
  FoldedSum terms;
  for (int64_t i = 0; i < n; i += kWidth) {
    const Reg e = exp_of(load_low(x + i, width(i)) - most);
    if (!logarithm) store_some(y + i, e, width(i));
    terms.add(e);
  }
  const Reg sum = broadcast(across(terms.total(), [](float a, float b) { return a + b; }));
  const Reg scale = broadcast(1) / sum, less = log_of(sum);
  for (int64_t i = 0; i < n; i += kWidth) {
    const Reg made =
        logarithm ? load_low(x + i, width(i)) - most - less : load_low(y + i, width(i)) * scale;
    store_some(y + i, made, width(i));
  }
}

#undef SPARSETRAIN_INLINE
