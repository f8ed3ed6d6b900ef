// A program that is ready to run, by several callers at a time.
#pragma once
#include <memory>
#include <mutex>
#include <vector>

#include "desks.h"
#include "program.h"

namespace sparsetrain::engine {

class Session {
 public:
  // What the constants point to must outlive the session.
  Session(Program program, std::shared_ptr<Desks> desks);

  // Pointers to inputs and outputs, as many bytes of each as the program says. Raises Refused where
  // an input holds an index that is out of range. `seconds`, if not null, gets each step's time.
  void run(const void* const* inputs, void* const* outputs, double* seconds);

  const Program program;

 private:
  // The operands of each step, at one desk.
  struct Placed {
    const void* arena = nullptr;  // where it was when they were placed
    std::vector<std::vector<Operand>> operands;
  };
  struct Outside {  // an operand that lies in an input or output
    size_t step, operand;
  };

  Placed& placed(const Desk& desk);
  void place_arena(Placed& at, const Desk& desk) const;
  void place_outside(Placed& at, const void* const* inputs, void* const* outputs) const;
  void run_unit(const Placed& at, Desk& desk, int64_t begin, int64_t end) const;

  const std::shared_ptr<Desks> desks;
  std::vector<int64_t> units;  // where steps begin that run together, and the end
  std::vector<Outside> outside;
  std::mutex mutex;                            // of the list, not of a run
  std::vector<std::unique_ptr<Placed>> known;  // by the desk's number
};

}  // namespace sparsetrain::engine
