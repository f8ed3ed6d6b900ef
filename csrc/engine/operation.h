// What every operation of the engine is: a check, once, when a program is prepared, and a run.
#pragma once
#include <cstdint>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>

#include "operand.h"
#include "threads.h"

namespace sparsetrain::engine {

// A program that cannot be run; the message is the user's.
struct Refused : std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

inline void require(bool right, const char* what) {
  if (!right) throw Refused(what);
}

// The numbers of one operation, in the order that its kind documents.
struct Attributes {
  const int64_t* words = nullptr;
  int64_t count = 0;

  int64_t whole(int64_t i) const { return words[i]; }
  double real(int64_t i) const {
    double x;
    std::memcpy(&x, words + i, sizeof x);
    return x;
  }
};

// Operands of one operation: `in` are read, `out` are written. Outputs overlap no input unless the
// operation's kind says that it works in place.
struct Call {
  const Operand* in;
  int inputs;
  const Operand* out;
  int outputs;
  Attributes attributes;
  float* scratch = nullptr;        // as many numbers as `scratch` of the operation asked for
  const void* prepared = nullptr;  // what `prepare` of the operation made
};

// `check` looks at shapes, dtypes and attributes and throws Refused. After it `run` reads and
// writes nothing outside its operands and allocates nothing; it throws Refused only where the
// numbers of an input are at fault, as an index can be. `prepare` may keep what it makes of
// constants. What is not a constant has null data until `run`.
struct Operation {
  const char* name;
  void (*check)(const Call&);
  void (*run)(const Call&, Threads&);
  int64_t (*scratch)(const Call&, int threads) = nullptr;         // null: none
  std::shared_ptr<const void> (*prepare)(const Call&) = nullptr;  // the same
};

}  // namespace sparsetrain::engine
