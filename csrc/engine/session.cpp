#include "session.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "product.h"

namespace sparsetrain::engine {
namespace {

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

}  // namespace

Session::Session(Program given, std::shared_ptr<Desks> given_desks)
    : program(std::move(given)), desks(std::move(given_desks)), units(units_of(program)) {
  int64_t scratch = 0;  // numbers
  for (size_t s = 0; s < program.steps.size(); s++) {
    const Step& step = program.steps[s];
    for (size_t i = 0; i < step.places.size(); i++) {
      const Region region = step.places[i].region;
      if (region == Region::kInput || region == Region::kOutput) outside.push_back({s, i});
    }
    if (!step.operation->scratch) continue;
    const Call call = step.call(step.operands.data(), nullptr);
    scratch = std::max(scratch, step.operation->scratch(call, desks->threads));
  }
  desks->reserve(program.arena, 4 * scratch);
}

// No other call has that desk, so what is returned is the caller's alone.
Session::Placed& Session::placed(const Desk& desk) {
  std::lock_guard lock(mutex);
  if (desk.number >= int64_t(known.size())) known.resize(desk.number + 1);
  std::unique_ptr<Placed>& found = known[desk.number];
  if (!found) {
    found = std::make_unique<Placed>();
    for (const Step& step : program.steps) found->operands.push_back(step.operands);
  }
  return *found;
}

void Session::place_arena(Placed& at, const Desk& desk) const {
  auto* const base = static_cast<char*>(desk.arena.data.get());
  if (at.arena == base) return;
  for (size_t s = 0; s < program.steps.size(); s++) {
    const std::vector<Place>& places = program.steps[s].places;
    for (size_t i = 0; i < places.size(); i++)
      if (places[i].region == Region::kArena) at.operands[s][i].data = base + places[i].byte;
  }
  at.arena = base;
}

void Session::place_outside(Placed& at, const void* const* inputs, void* const* outputs) const {
  for (const auto& [s, i] : outside) {
    const Place& place = program.steps[s].places[i];
    const void* base = place.region == Region::kInput ? inputs[place.index] : outputs[place.index];
    at.operands[s][i].data = static_cast<char*>(const_cast<void*>(base)) + place.byte;
  }
}

void Session::run(const void* const* inputs, void* const* outputs, double* seconds) {
  Desk& desk = desks->take();
  struct Leave {
    Desks& desks;
    Desk& desk;
    ~Leave() { desks.leave(desk); }
  } leave{*desks, desk};
  Placed& at = placed(desk);
  place_arena(at, desk);
  place_outside(at, inputs, outputs);
  if (!seconds) {
    for (size_t u = 0; u + 1 < units.size(); u++) run_unit(at, desk, units[u], units[u + 1]);
    return;
  }
  for (size_t s = 0; s < program.steps.size(); s++) {
    const auto begin = std::chrono::steady_clock::now();
    run_unit(at, desk, s, s + 1);
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
    seconds[s] += took.count();
  }
}

void Session::run_unit(const Placed& at, Desk& desk, int64_t begin, int64_t end) const {
  auto* scratch = static_cast<float*>(desk.scratch.data.get());
  Call calls[kMostTogether];
  for (int64_t s = begin; s < end; s++)
    calls[s - begin] = program.steps[s].call(at.operands[s].data(), scratch);
  if (end - begin > 1) return run_in_tiles(calls, int(end - begin), desk.threads);
  program.steps[begin].operation->run(calls[0], desk.threads);
}

}  // namespace sparsetrain::engine
