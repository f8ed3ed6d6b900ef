// entries as PyTorch ops on the CPU. Built on torch's stable ABI: one binary serves every
// torch >= 2.11.
#include "entries.h"

#include <torch/csrc/stable/library.h>

#include <climits>
#include <mutex>
#include <random>
#include <tuple>
#include <unordered_map>

namespace sparsetrain {
namespace {

using Shared = std::shared_ptr<const CheckedEntries>;

constexpr const char* kOp = "entries";

// Those that live, by number. Numbers are drawn, so that none is met by chance.
class Living {
 public:
  int64_t add(Shared entries) {
    const std::lock_guard<std::mutex> guard(lock_);
    while (true) {
      const auto number = int64_t(draw_());
      if (entries_.emplace(number, entries).second) return number;
    }
  }
  Shared find(int64_t number) {
    const std::lock_guard<std::mutex> guard(lock_);
    const auto found = entries_.find(number);
    return found == entries_.end() ? nullptr : found->second;
  }
  void remove(int64_t number) {
    Shared last;  // dies after the lock
    const std::lock_guard<std::mutex> guard(lock_);
    const auto found = entries_.find(number);
    if (found == entries_.end()) return;
    last = std::move(found->second);
    entries_.erase(found);
  }

 private:
  std::mutex lock_;
  std::mt19937_64 draw_{std::random_device()()};
  std::unordered_map<int64_t, Shared> entries_;
};

// Never destroyed: tokens may outlive everything else.
Living& living() {
  static auto& all = *new Living;
  return all;
}

Tensor token_of(Shared entries) {
  auto* number = new int64_t(living().add(std::move(entries)));
  const auto end = [](void* memory) {
    auto* number = static_cast<int64_t*>(memory);
    living().remove(*number);
    delete number;
  };
  const int64_t one = 1;
  return torch::stable::from_blob(number, {&one, 1}, {&one, 1},
                                  torch::stable::Device(torch::headeronly::DeviceType::CPU),
                                  ScalarType::Long, end);
}

void check_counts(const CheckedEntries& e) {
  STD_TORCH_CHECK(e.v == 1 || e.v == 4 || e.v == 8 || e.v == 16, kOp,
                  ": v must be one of (1, 4, 8, 16), got ", e.v);
  const auto within = [](int64_t least, int64_t x) { return least <= x && x < INT_MAX; };
  STD_TORCH_CHECK(within(1, e.segments) && within(0, e.channels), kOp,
                  ": segments must be 1 or more and channels 0 or more, got ", e.segments, " and ",
                  e.channels);
  STD_TORCH_CHECK(e.size.size() == 2 && within(0, e.size[0]) && within(0, e.size[1]), kOp,
                  ": size must be two numbers, 0 or more, got ", Printed{e.size});
  STD_TORCH_CHECK(e.x_shape.size() == 4 && std::all_of(e.x_shape.begin(), e.x_shape.end(),
                                                       [&](int64_t n) { return within(0, n); }),
                  kOp, ": x_shape must be four numbers, 0 or more, got ", Printed{e.x_shape});
}

void check_start(const CheckedEntries& e) {
  Check(kOp, "start", e.start).dtype({ScalarType::Int});
  const int64_t needed = e.segments * e.groups() + 1;
  STD_TORCH_CHECK(e.start.size(0) == needed, kOp, ": start must be [", needed, "] for ", e.segments,
                  " segments of ", e.groups(), " groups, got ", Printed{sizes_of(e.start)});
  const int32_t* start = e.start_ptr();
  const int64_t last = e.start.size(0) - 1;
  STD_TORCH_CHECK(
      start[0] == 0 && start[last] == e.count() && std::is_sorted(start, start + last + 1), kOp,
      ": start must rise from 0 to the ", e.count(), " entries");
}

void check_offset(const CheckedEntries& e) {
  int64_t numbers = 1;
  for (const int64_t n : e.x_shape) {
    numbers *= n;
    STD_TORCH_CHECK(numbers < INT_MAX, kOp,
                    ": x has 2^31 numbers a block or more, more than int32 offsets reach: ",
                    Printed{e.x_shape});
  }
  const int64_t columns = e.x_shape[2], lanes = e.x_shape[3];
  if (e.count() == 0 || e.size[0] * e.size[1] * lanes == 0) return;  // nothing is read
  const auto ends = std::minmax_element(e.offset_ptr(), e.offset_ptr() + e.count());
  const int64_t pixels = (e.size[0] - 1) * columns + e.size[1];  // that an entry reads along
  STD_TORCH_CHECK(*ends.first >= 0 && pixels <= numbers && *ends.second + pixels * lanes <= numbers,
                  kOp, ": offsets from ", *ends.first, " to ", *ends.second,
                  " leave x, a block of which has ", numbers, " numbers");
}

Tensor entries_cpu(const Tensor& start, const Tensor& offset, int64_t v, int64_t segments,
                   int64_t channels, Sizes size, Sizes x_shape) {
  Check(kOp, "start", start).axes(1, 1).contiguous();
  Check(kOp, "offset", offset).dtype({ScalarType::Int}).axes(1, 1).contiguous();
  auto entries = std::make_shared<CheckedEntries>(
      CheckedEntries{torch::stable::clone(start), torch::stable::clone(offset), v, segments,
                     channels, std::move(size), std::move(x_shape)});
  check_counts(*entries);
  check_start(*entries);
  check_offset(*entries);
  return token_of(std::move(entries));
}

std::tuple<Tensor, Tensor> entry_places_cpu(const Tensor& token) {
  const Shared entries = entries_of("entry_places", token);
  return {torch::stable::clone(entries->start), torch::stable::clone(entries->offset)};
}

}  // namespace

Shared entries_of(const char* op, const Tensor& token) {
  Check(op, "entries", token).dtype({ScalarType::Long}).shape({1}).contiguous();
  Shared found = living().find(*token.const_data_ptr<int64_t>());
  STD_TORCH_CHECK(found, op, ": entries must be a token of sparsetrain::entries that lives");
  return found;
}

STABLE_TORCH_LIBRARY_IMPL(sparsetrain, CPU, m) {
  m.impl("entries", TORCH_BOX(&entries_cpu));
  m.impl("entry_places", TORCH_BOX(&entry_places_cpu));
}

}  // namespace sparsetrain
