// A fixed number of threads that carry out one loop at a time.
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

namespace sparsetrain::engine {

class Threads {
 public:
  explicit Threads(int count);
  ~Threads();
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;

  int count() const { return int(workers.size()) + 1; }

  // f(begin, end) over [0, n), in contiguous parts that the threads, the caller among them, take
  // one after the other. Returns when all are done. f must not throw, and must not call parallel.
  template <typename F>
  void parallel(int64_t n, const F& f) {
    if (n <= 0) return;
    if (workers.empty() || n == 1) return f(int64_t(0), n);
    run([](const void* f, int64_t begin, int64_t end) { (*static_cast<const F*>(f))(begin, end); },
        &f, n);
  }

 private:
  using Part = void (*)(const void* f, int64_t begin, int64_t end);
  void run(Part part, const void* f, int64_t n);
  void work();

  struct Shared;
  std::unique_ptr<Shared> shared;
  std::vector<std::thread> workers;
};

}  // namespace sparsetrain::engine
