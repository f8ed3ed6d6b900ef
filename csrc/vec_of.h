// Registers by how their numbers are stored, for loops of either storage: see vec_bf16.h and
// each_isa.h.

#define SPARSETRAIN_INLINE SPARSETRAIN_TARGET [[gnu::always_inline]] inline

struct Single {
  using Vec = Reg;
  static constexpr int kNumbers = kWidth, kRegs = 1;
};
struct Paired {
  using Vec = Pair;
  static constexpr int kNumbers = 2 * kWidth, kRegs = 2;
};
// Of numbers stored as T, in a loop in which pairs fit the registers, or not.
template <typename T, bool fit>
using VecOf = std::conditional_t<std::is_same_v<T, BFloat16> && fit, Paired, Single>;

// The first n numbers at p, the others zero. Of fp32 a Pair is always whole, its halves one after
// the other: what it holds while it waits.
template <typename T>
SPARSETRAIN_INLINE void get(Reg& a, const T* p, int n) {
  a = n == kWidth ? load(p) : load_first(p, n);
}
SPARSETRAIN_INLINE void get(Pair& a, const BFloat16* p, int n) {
  a = n == 2 * kWidth ? load_pair(p) : load_pair_first(p, n);
}
SPARSETRAIN_INLINE void get(Pair& a, const float* p, int) { a = {load(p), load(p + kWidth)}; }

template <typename T>
SPARSETRAIN_INLINE void put(T* p, Reg a, int n) {
  n == kWidth ? store(p, a) : store_first(p, a, n);
}
SPARSETRAIN_INLINE void put(BFloat16* p, Pair a, int n) {
  n == 2 * kWidth ? store(p, a) : store_first(p, a, n);
}
SPARSETRAIN_INLINE void put(float* p, Pair a, int) {
  store(p, a.even);
  store(p + kWidth, a.odd);
}

SPARSETRAIN_INLINE void set(Reg& a, float x) { a = broadcast(x); }
SPARSETRAIN_INLINE void set(Pair& a, float x) { a = {broadcast(x), broadcast(x)}; }
SPARSETRAIN_INLINE Pair add(Pair a, Pair b) { return {add(a.even, b.even), add(a.odd, b.odd)}; }
SPARSETRAIN_INLINE Pair relu(Pair a) { return {relu(a.even), relu(a.odd)}; }
SPARSETRAIN_INLINE Pair least(Reg a, Pair b) { return {least(a, b.even), least(a, b.odd)}; }
SPARSETRAIN_INLINE Pair multiply_add(Reg a, Pair b, Pair c) {
  return {multiply_add(a, b.even, c.even), multiply_add(a, b.odd, c.odd)};
}
// The sum of a * b goes to one register.
SPARSETRAIN_INLINE Reg multiply_add(Pair a, Pair b, Reg c) {
  return multiply_add(a.odd, b.odd, multiply_add(a.even, b.even, c));
}

#undef SPARSETRAIN_INLINE
