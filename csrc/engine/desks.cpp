#include "desks.h"

#include <algorithm>
#include <new>

namespace sparsetrain::engine {
namespace {

constexpr int64_t kLine = 64;  // bytes of a line of the cache

}  // namespace

void Memory::reserve(int64_t needed) {
  if (data && needed <= bytes) return;
  const int64_t whole = std::max<int64_t>(1, (needed + kLine - 1) / kLine) * kLine;
  data.reset();
  bytes = 0;
  data.reset(std::aligned_alloc(kLine, whole));
  if (!data) throw std::bad_alloc();
  bytes = whole;
}

void Desks::reserve(int64_t more_arena, int64_t more_scratch) {
  std::lock_guard lock(mutex);
  arena = std::max(arena, more_arena), scratch = std::max(scratch, more_scratch);
  if (desks.empty()) add();
  for (const auto& desk : desks)
    if (!desk->taken) enlarge(*desk);
}

Desk& Desks::take() {
  std::lock_guard lock(mutex);
  const auto free = std::find_if(desks.begin(), desks.end(), [](auto& d) { return !d->taken; });
  Desk& desk = free == desks.end() ? add() : **free;
  enlarge(desk);  // it was taken, perhaps, when memory was reserved
  desk.taken = true;
  return desk;
}

void Desks::leave(Desk& desk) {
  std::lock_guard lock(mutex);
  desk.taken = false;
}

void Desks::enlarge(Desk& desk) const {
  desk.arena.reserve(arena);
  desk.scratch.reserve(scratch);
}

Desk& Desks::add() {
  desks.push_back(std::make_unique<Desk>(int64_t(desks.size()), threads));
  return *desks.back();
}

}  // namespace sparsetrain::engine
