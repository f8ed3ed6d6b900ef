// What the calls of a network run on: a desk has memory and threads, for one call at a time.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <vector>

#include "threads.h"

namespace sparsetrain::engine {

struct Free {
  void operator()(void* p) const { std::free(p); }
};

// Bytes that begin with a line of the cache.
struct Memory {
  std::unique_ptr<void, Free> data;
  int64_t bytes = 0;

  // What was in it is lost.
  void reserve(int64_t needed);
};

struct Desk {
  Desk(int64_t number, int threads) : number(number), threads(threads) {}

  const int64_t number;
  bool taken = false;
  Memory arena, scratch;
  Threads threads;
};

// Shared by all programs of a network, each for another batch: none leaves anything in a desk.
class Desks {
 public:
  explicit Desks(int threads) : threads(threads) {}

  // From now on each desk has as much memory; there is one at least.
  void reserve(int64_t arena, int64_t scratch);

  // A second caller at a time gets a desk of its own, which stays for the next.
  Desk& take();
  void leave(Desk& desk);

  const int threads;

 private:
  void enlarge(Desk& desk) const;
  Desk& add();

  std::mutex mutex;  // of the list, not of a call
  std::vector<std::unique_ptr<Desk>> desks;
  int64_t arena = 0, scratch = 0;  // bytes
};

}  // namespace sparsetrain::engine
