#include "threads.h"

#include <algorithm>
#include <condition_variable>
#include <mutex>

#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace sparsetrain::engine {
namespace {

constexpr int kSpins = 20000;  // some 0.1 ms: longer than between two operations of a network

void relax() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

constexpr int64_t kParts = 4;  // of a loop, for each thread

int64_t share(int64_t n, int64_t part, int64_t parts) { return n * part / parts; }

}  // namespace

// What the threads wait for: `turn` counts loops, `busy` the workers that are still in this one.
struct Threads::Shared {
  std::atomic<uint64_t> turn{0};
  std::atomic<int> busy{0};
  std::atomic<int> asleep{0};
  std::atomic<bool> stop{false};
  Part part = nullptr;
  const void* f = nullptr;
  int64_t n = 0, parts = 0;
  std::atomic<int64_t> taken{0};  // parts
  std::mutex mutex;
  std::condition_variable wake;

  void wait(uint64_t seen) {
    for (int i = 0; i < kSpins; i++) {
      if (turn.load(std::memory_order_acquire) != seen) return;
      relax();
    }
    std::unique_lock lock(mutex);
    asleep++;
    wake.wait(lock, [&] { return turn.load() != seen; });
    asleep--;
  }

  // Parts of the loop until none is left: a thread that the system holds up takes fewer.
  void take() {
    for (int64_t i; (i = taken.fetch_add(1)) < parts;)
      part(f, share(n, i, parts), share(n, i + 1, parts));
  }

  void next() {
    turn.fetch_add(1);
    if (asleep.load() == 0) return;
    std::lock_guard lock(mutex);
    wake.notify_all();
  }
};

Threads::Threads(int count) : shared(std::make_unique<Shared>()) {
  for (int i = 1; i < count; i++) workers.emplace_back([this] { work(); });
}

Threads::~Threads() {
  shared->stop = true;
  shared->next();
  for (std::thread& worker : workers) worker.join();
}

void Threads::work() {
  for (uint64_t seen = 0;; seen++) {
    shared->wait(seen);
    if (shared->stop) return;
    shared->take();
    shared->busy.fetch_sub(1, std::memory_order_release);
  }
}

void Threads::run(Part part, const void* f, int64_t n) {
  const int count = this->count();
  shared->part = part, shared->f = f, shared->n = n;
  shared->parts = std::min(n, kParts * count), shared->taken = 0;
  shared->busy.store(count - 1);
  shared->next();
  shared->take();
  for (int i = 0; shared->busy.load(std::memory_order_acquire) != 0; i++) {
    relax();
    if (i % kSpins == kSpins - 1) std::this_thread::yield();
  }
}

}  // namespace sparsetrain::engine
