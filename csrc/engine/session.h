// A program that is ready to run, by several callers at a time.
#pragma once
#include <atomic>
#include <memory>
#include <mutex>
#include <vector>

#include "program.h"

namespace sparsetrain::engine {

class Session {
 public:
  // What the constants point to must outlive the session.
  Session(Program program, int threads);
  ~Session();

  // Pointers to inputs and outputs, as many bytes of each as the program says. Raises Refused where
  // an input holds an index that is out of range. `seconds`, if not null, gets each step's time.
  void run(const void* const* inputs, void* const* outputs, double* seconds);

  const Program program;

 private:
  struct Desk;  // one call's arena, scratch, threads and operands

  Desk& take();
  void run_unit(Desk& desk, int64_t begin, int64_t end) const;
  void place(Desk& desk, const void* const* inputs, void* const* outputs) const;

  const int threads;
  std::vector<int64_t> units;  // where steps begin that run together, and the end
  int64_t scratch = 0;         // numbers
  std::mutex mutex;            // of the list of desks, not of a run
  std::vector<std::unique_ptr<Desk>> desks;
};

}  // namespace sparsetrain::engine
