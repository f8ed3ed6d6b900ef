// pad: x with numbers around it, or without those at its ends.
//
//   in   x of any dtype;  out  y of its dtype and rank
//   attributes: mode (0 constant, 1 reflect, 2 replicate, 3 circular), the value of a constant, a
//   real number, and for each axis how many there are in front of x, below 0 of those cut off
//
// What stands behind x is what y's sizes leave. x is copied into y; then, axis by axis, slabs of y
// that are there already are copied to its ends.
#include "copy.h"
#include "fill.h"
#include "loops.h"
#include "operations.h"

namespace sparsetrain::engine {
namespace {

enum Mode : int64_t { kConstant, kReflect, kReplicate, kCircular };

// Along one axis x fills [begin, end) of y, from x's entry `skipped` on.
struct Inside {
  int64_t begin, end, skipped;
};

Inside inside_of(const Call& call, int axis) {
  const int64_t before = call.attributes.whole(2 + axis), size = call.out[0].shape[axis];
  const int64_t begin = std::clamp<int64_t>(before, 0, size);
  const int64_t end = std::clamp<int64_t>(before + call.in[0].shape[axis], begin, size);
  return {begin, end, begin - before};
}

// The entry of y, inside, whose numbers stand at `i`, outside.
int64_t source_of(Mode mode, const Inside& in, int64_t i) {
  if (mode == kReplicate) return i < in.begin ? in.begin : in.end - 1;
  if (mode == kReflect) return i < in.begin ? 2 * in.begin - i : 2 * (in.end - 1) - i;
  return i < in.begin ? i + in.end - in.begin : i - in.end + in.begin;
}

void check_reach(const Call& call, int axis, Mode mode) {
  const int64_t before = call.attributes.whole(2 + axis), size = call.in[0].shape[axis];
  const int64_t behind = call.out[0].shape[axis] - size - before;
  if (mode == kConstant || (before == 0 && behind == 0)) return;
  require(before >= 0 && behind >= 0, "pad: only a constant can cut off");
  const int64_t most = mode == kReflect ? size - 1 : mode == kCircular ? size : INT64_MAX;
  require(size >= 1 && before <= most && behind <= most, "pad: x is too small for its padding");
}

void check(const Call& call) {
  require(call.inputs == 1 && call.outputs == 1 && call.attributes.count == 2 + call.in[0].rank,
          "pad: one input, one output, a mode, a value and as many numbers as axes are needed");
  const Operand &x = call.in[0], &y = call.out[0];
  const int64_t mode = call.attributes.whole(0);
  require(mode >= kConstant && mode <= kCircular, "pad: there is no mode of that number");
  require(x.rank == y.rank && x.dtype == y.dtype, "pad: x and y must be of one dtype and rank");
  require(x.dtype == DType::kFloat || x.dtype == DType::kInt64 || x.dtype == DType::kBool,
          "pad: x must be fp32, int64 or bool");
  const double value = call.attributes.real(1);
  require(x.dtype != DType::kInt64 || (value >= -9.2e18 && value <= 9.2e18),
          "pad: the value is out of int64's range");
  constexpr int64_t kMost = int64_t(1) << 40;
  for (int a = 0; a < x.rank; a++) {
    const int64_t before = call.attributes.whole(2 + a);
    require(before >= -kMost && before <= kMost, "pad: a number is out of range");
    check_reach(call, a, Mode(mode));
  }
}

void run(const Call& call, Threads& threads) {
  Operand x = call.in[0], inner = call.out[0];
  const Operand& y = call.out[0];
  const auto mode = Mode(call.attributes.whole(0));
  for (int a = 0; a < y.rank; a++) {
    const Inside in = inside_of(call, a);
    x = part_of(x, a, in.skipped, in.end - in.begin);
    inner = part_of(inner, a, in.begin, in.end - in.begin);
  }
  if (mode == kConstant) fill_numbers(y, call.attributes.real(1), threads);
  copy_numbers(x, inner, threads);
  if (mode == kConstant || y.count() == 0) return;
  Operand made = inner;  // what is there: all of the axes before this one
  for (int a = 0; a < y.rank; a++) {
    const Inside in = inside_of(call, a);
    Operand whole = made;
    whole.data = static_cast<char*>(made.data) - in.begin * y.stride[a] * bytes_of(y.dtype);
    whole.shape[a] = y.shape[a];
    for (int64_t i = 0; i < y.shape[a]; i++)
      if (i < in.begin || i >= in.end)
        copy_numbers(part_of(whole, a, source_of(mode, in, i), 1), part_of(whole, a, i, 1),
                     threads);
    made = whole;
  }
}

}  // namespace

const Operation kPad{"pad", check, run};

}  // namespace sparsetrain::engine
