#include "program.h"

#include "operations.h"

namespace sparsetrain::engine {
namespace {

// Words one after the other, each in the range that it must be in.
class Words {
 public:
  Words(const int64_t* words, int64_t count) : words(words), left(count) {}

  int64_t next(int64_t least, int64_t most, const char* what) {
    if (left <= 0) throw Refused("the program ends early");
    const int64_t word = *words++;
    left--;
    if (word < least || word > most) throw Refused(std::string(what) + " is out of range");
    return word;
  }

  std::vector<int64_t> take(int64_t count) {
    if (count > left) throw Refused("the program ends early");
    std::vector<int64_t> taken(words, words + count);
    words += count, left -= count;
    return taken;
  }

  bool ended() const { return left == 0; }

 private:
  const int64_t* words;
  int64_t left;
};

int64_t bytes_of_region(const Program& program, const Place& place) {
  switch (place.region) {
    case Region::kArena:
      return program.arena;
    case Region::kConstant:
      return program.constants[place.index].bytes;
    case Region::kInput:
      return program.inputs[place.index];
    default:
      return program.outputs[place.index];
  }
}

int64_t indices_of_region(const Program& program, Region region) {
  switch (region) {
    case Region::kArena:
      return 1;
    case Region::kConstant:
      return int64_t(program.constants.size());
    case Region::kInput:
      return int64_t(program.inputs.size());
    default:
      return int64_t(program.outputs.size());
  }
}

}  // namespace

int64_t extent(const Operand& operand) {
  __int128 last = 0, count = 1;
  for (int a = 0; a < operand.rank; a++) {
    count *= operand.shape[a];
    last += __int128(operand.shape[a] - 1) * operand.stride[a];
    if (count > kLargest || last > kLargest) return -1;
  }
  return count == 0 ? 0 : int64_t(last) + 1;
}

namespace {

void read_operand(Words& words, const Program& program, bool written, Operand& operand,
                  Place& place) {
  place.region = Region(words.next(0, 3, "a region"));
  const bool kept = place.region == Region::kConstant || place.region == Region::kInput;
  if (written && kept) throw Refused("an output lies in a constant or an input");
  place.index = words.next(0, indices_of_region(program, place.region) - 1, "an operand's index");
  place.byte = words.next(0, kLargest, "an operand's place");
  operand.dtype = DType(words.next(0, kDTypes - 1, "a dtype"));
  operand.rank = int(words.next(0, kMostAxes, "a rank"));
  for (int a = 0; a < operand.rank; a++) operand.shape[a] = words.next(0, kLargest, "a size");
  for (int a = 0; a < operand.rank; a++) operand.stride[a] = words.next(0, kLargest, "a stride");
  const int64_t size = bytes_of(operand.dtype), most = bytes_of_region(program, place);
  const int64_t end = extent(operand);
  if (place.byte % size || place.byte > most) throw Refused("an operand begins outside its memory");
  operand.before = place.byte / size;
  operand.behind = (most - place.byte) / size;
  if (end < 0 || end > operand.behind) throw Refused("an operand reaches outside its memory");
}

// Two places of what is written must not be one.
bool repeats(const Operand& operand) {
  for (int a = 0; a < operand.rank; a++)
    if (operand.shape[a] > 1 && operand.stride[a] == 0) return true;
  return false;
}

Step read_step(Words& words, const Program& program) {
  Step step;
  step.operation = &operation(words.next(0, operation_count() - 1, "an operation"));
  step.inputs = int(words.next(0, 1 << 16, "a number of inputs"));
  const int64_t outputs = words.next(0, 16, "a number of outputs");
  const int64_t attributes = words.next(0, 1 << 16, "a number of attributes");
  step.operands.resize(step.inputs + outputs);
  step.places.resize(step.inputs + outputs);
  for (int i = 0; i < int(step.operands.size()); i++) {
    const bool written = i >= step.inputs;
    read_operand(words, program, written, step.operands[i], step.places[i]);
    if (written && repeats(step.operands[i])) throw Refused("an output is repeated");
    if (step.places[i].region == Region::kConstant) {
      const auto* data = static_cast<const char*>(program.constants[step.places[i].index].data);
      step.operands[i].data = const_cast<char*>(data) + step.places[i].byte;
    }
  }
  step.attributes = words.take(attributes);
  const Call call = step.call(step.operands.data(), nullptr);
  step.operation->check(call);
  if (step.operation->prepare) step.prepared = step.operation->prepare(call);
  return step;
}

std::vector<int64_t> read_sizes(Words& words, int64_t count) {
  std::vector<int64_t> sizes(count);
  for (int64_t& size : sizes) size = words.next(0, kLargest, "a number of bytes");
  return sizes;
}

}  // namespace

Program read_program(const int64_t* at, int64_t count, const std::vector<Constant>& constants) {
  Words words(at, count);
  words.next(kMagic, kMagic, "the magic number");
  words.next(kVersion, kVersion, "the version of the program");
  Program program;
  program.arena = words.next(0, kLargest, "the arena");
  const int64_t given = int64_t(constants.size());
  words.next(given, given, "the number of constants");
  const int64_t inputs = words.next(0, 1 << 12, "the number of inputs");
  const int64_t outputs = words.next(0, 1 << 12, "the number of outputs");
  program.constants = constants;
  program.inputs = read_sizes(words, inputs);
  program.outputs = read_sizes(words, outputs);
  const int64_t steps = words.next(0, 1 << 20, "the number of steps");
  for (int64_t i = 0; i < steps; i++) {
    try {
      program.steps.push_back(read_step(words, program));
    } catch (const Refused& refused) {
      const Step* step = program.steps.empty() ? nullptr : &program.steps.back();
      throw Refused("step " + std::to_string(i) +
                    (step ? std::string(" after ") + step->operation->name : "") + ": " +
                    refused.what());
    }
  }
  if (!words.ended()) throw Refused("the program goes on after its last step");
  return program;
}

}  // namespace sparsetrain::engine
