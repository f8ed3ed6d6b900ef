// Counts what is allocated, by any thread, while a program of the engine runs: to be loaded before
// the C library (LD_PRELOAD), by tests/engine/test_steady.py.
#include <dlfcn.h>

#include <atomic>
#include <cstddef>

namespace {

std::atomic<bool> counts{false};
std::atomic<long> count{0};

template <typename F>
F* real(const char* name) {
  return reinterpret_cast<F*>(dlsym(RTLD_NEXT, name));
}

void note() {
  if (counts.load()) count++;
}

}  // namespace

extern "C" {

void* malloc(size_t size) {
  static auto* const next = real<void*(size_t)>("malloc");
  note();
  return next(size);
}

void* realloc(void* p, size_t size) {
  static auto* const next = real<void*(void*, size_t)>("realloc");
  note();
  return next(p, size);
}

void* aligned_alloc(size_t line, size_t size) {
  static auto* const next = real<void*(size_t, size_t)>("aligned_alloc");
  note();
  return next(line, size);
}

using Run = int(void*, const void* const*, void* const*, double*, char*);

// Calls of sparsetrain_run, all alike; -1 where one fails.
long allocations(Run* run, void* session, const void* const* inputs, void* const* outputs,
                 char* error, int calls) {
  count = 0;
  counts = true;
  int failed = 0;
  for (int i = 0; i < calls; i++) failed |= run(session, inputs, outputs, nullptr, error);
  counts = false;
  return failed ? -1 : count.load();
}
}
