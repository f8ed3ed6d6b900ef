// sort_entries as a PyTorch op on the CPU. Built on torch's stable ABI: one binary serves every
// torch >= 2.11.
#include "../sort_entries.h"

#include <torch/csrc/stable/library.h>

#include <climits>
#include <tuple>

#include "checks.h"

namespace sparsetrain {
namespace {

constexpr const char* kOp = "sort_entries";

const EntryPart* parts(const char* name, const Tensor& table) {
  Check(kOp, name, table).dtype({ScalarType::Long}).shape({kAny, 3}).contiguous();
  return reinterpret_cast<const EntryPart*>(table.const_data_ptr<int64_t>());
}

std::tuple<Tensor, Tensor, Tensor> sort_entries_cpu(const Tensor& index, const Tensor& rows,
                                                    const Tensor& columns, int64_t v, int64_t width,
                                                    int64_t segments, int64_t groups) {
  Check(kOp, "index", index).dtype({ScalarType::Long}).axes(1, 1).contiguous();
  const auto within = [](int64_t least, int64_t x) { return least <= x && x <= INT_MAX; };
  STD_TORCH_CHECK(within(1, v) && within(1, width), kOp,
                  ": v and width must be 1 to 2^31 - 1, got ", v, " and ", width);
  STD_TORCH_CHECK(within(0, segments) && within(0, groups) && segments * groups < INT_MAX, kOp,
                  ": segments and groups must be 0 or more, and fewer than 2^31 together, got ",
                  segments, " and ", groups);
  SortEntries sort({index.const_data_ptr<int64_t>(), index.size(0), v, parts("rows", rows),
                    rows.size(0), parts("columns", columns), columns.size(0), groups, segments,
                    width});
  const int64_t total = sort.count();
  STD_TORCH_CHECK(total >= 0, kOp,
                  ": index must ascend and stay inside the matrix, its groups and channels inside"
                  " theirs, and offsets and entries below 2^31");
  Tensor start = torch::stable::new_empty(index, {segments * groups + 1}, ScalarType::Int);
  Tensor offset = torch::stable::new_empty(index, {total}, ScalarType::Int);
  Tensor place = torch::stable::new_empty(index, {total}, ScalarType::Long);
  sort.write(start.mutable_data_ptr<int32_t>(), offset.mutable_data_ptr<int32_t>(),
             place.mutable_data_ptr<int64_t>());
  return {start, offset, place};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sparsetrain, CPU, m) {
  m.impl("sort_entries", TORCH_BOX(&sort_entries_cpu));
}

}  // namespace sparsetrain
