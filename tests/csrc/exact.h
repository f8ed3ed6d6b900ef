// Inputs for the tests of csrc: each in an exactly sized buffer, one element off its alignment, so
// that a sanitizer sees every stray read or write.
#pragma once
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <thread>

namespace sparsetrain {

inline std::mt19937 generator(1);

inline int64_t below(int64_t n) { return int64_t(generator() % uint64_t(n)); }

template <typename T>
struct Exact {
  explicit Exact(int64_t n) : n(n), held(new T[n + 1]), data(held.get() + 1) {}
  T& operator[](int64_t i) { return data[i]; }
  T operator[](int64_t i) const { return data[i]; }
  int64_t n;
  std::unique_ptr<T[]> held;
  T* data;
};

// From least to 1.
template <typename T>
Exact<T> numbers(int64_t n, double least = -1) {
  Exact<T> x(n);
  for (int64_t i = 0; i < n; i++) x[i] = T(least + (1 - least) * double(below(1001)) / 1000);
  return x;
}

// Two threads, whatever the machine has, as each op takes them.
struct TwoThreads {
  template <typename Work>
  void operator()(int64_t n, const Work& work) const {
    std::thread other([&] { work(0, n / 2); });
    work(n / 2, n);
    other.join();
  }
  template <typename Work>
  void operator()(int64_t n, int64_t, const Work& work) const {
    (*this)(n, work);
  }
};

}  // namespace sparsetrain
