#include "session.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <new>

#include "product.h"

namespace sparsetrain::engine {
namespace {

constexpr int64_t kLine = 64;  // bytes of a line of the cache: where the arena begins

struct Free {
  void operator()(void* p) const { std::free(p); }
};
using Memory = std::unique_ptr<void, Free>;

constexpr int kMostTogether = 4;

bool joins(const std::vector<Step>& steps, int64_t first, int64_t s) {
  if (!follows_in_tiles(steps[s - 1], steps[s])) return false;
  for (int64_t earlier = first; earlier < s; earlier++)
    if (touches(steps[s], steps[earlier])) return false;
  return true;
}

// Steps that run together are one unit: products that follow each other, tile by tile.
std::vector<int64_t> units_of(const Program& program) {
  std::vector<int64_t> units;
  const auto count = int64_t(program.steps.size());
  for (int64_t s = 0; s < count;) {
    units.push_back(s);
    const int64_t first = s++;
    while (s < count && s - first < kMostTogether && joins(program.steps, first, s)) s++;
  }
  units.push_back(count);
  return units;
}

Memory memory(int64_t bytes) {
  void* p =
      std::aligned_alloc(kLine, std::max<int64_t>(kLine, (bytes + kLine - 1) / kLine * kLine));
  if (!p) throw std::bad_alloc();
  return Memory(p);
}

}  // namespace

struct Session::Desk {
  Desk(const Program& program, int64_t scratch, int threads)
      : arena(memory(program.arena)), scratch(memory(scratch * 4)), threads(threads) {
    for (const Step& step : program.steps) operands.push_back(step.operands);
  }

  std::atomic<bool> taken{true};
  Memory arena, scratch;
  Threads threads;
  std::vector<std::vector<Operand>> operands;  // of each step
};

Session::Session(Program given, int threads)
    : program(std::move(given)), threads(threads), units(units_of(program)) {
  for (const Step& step : program.steps) {
    if (!step.operation->scratch) continue;
    const Call call = step.call(step.operands.data(), nullptr);
    scratch = std::max(scratch, step.operation->scratch(call, threads));
  }
  desks.push_back(std::make_unique<Desk>(program, scratch, threads));
  desks.back()->taken = false;
}

Session::~Session() = default;

// A second caller at a time gets a desk of its own, which stays for the next.
Session::Desk& Session::take() {
  std::lock_guard lock(mutex);
  for (const auto& desk : desks)
    if (!desk->taken.exchange(true)) return *desk;
  desks.push_back(std::make_unique<Desk>(program, scratch, threads));
  return *desks.back();
}

void Session::place(Desk& desk, const void* const* inputs, void* const* outputs) const {
  for (size_t s = 0; s < program.steps.size(); s++) {
    const Step& step = program.steps[s];
    for (size_t i = 0; i < step.places.size(); i++) {
      const Place& at = step.places[i];
      char* base = nullptr;
      if (at.region == Region::kConstant) continue;
      if (at.region == Region::kArena) base = static_cast<char*>(desk.arena.get());
      if (at.region == Region::kInput)
        base = const_cast<char*>(static_cast<const char*>(inputs[at.index]));
      if (at.region == Region::kOutput) base = static_cast<char*>(outputs[at.index]);
      desk.operands[s][i].data = base + at.byte;
    }
  }
}

void Session::run(const void* const* inputs, void* const* outputs, double* seconds) {
  Desk& desk = take();
  struct Leave {
    Desk& desk;
    ~Leave() { desk.taken = false; }
  } leave{desk};
  place(desk, inputs, outputs);
  if (!seconds) {
    for (size_t u = 0; u + 1 < units.size(); u++) run_unit(desk, units[u], units[u + 1]);
    return;
  }
  for (size_t s = 0; s < program.steps.size(); s++) {
    const auto begin = std::chrono::steady_clock::now();
    run_unit(desk, s, s + 1);
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
    seconds[s] += took.count();
  }
}

void Session::run_unit(Desk& desk, int64_t begin, int64_t end) const {
  auto* scratch = static_cast<float*>(desk.scratch.get());
  Call calls[kMostTogether];
  for (int64_t s = begin; s < end; s++)
    calls[s - begin] = program.steps[s].call(desk.operands[s].data(), scratch);
  if (end - begin > 1) return run_in_tiles(calls, int(end - begin), desk.threads);
  program.steps[begin].operation->run(calls[0], desk.threads);
}

}  // namespace sparsetrain::engine
