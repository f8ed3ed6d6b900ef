// sort_entries as a PyTorch op on the CPU. Built on torch's stable ABI: one binary serves every
// torch >= 2.11.
#include "../sort_entries.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <tuple>

namespace sparsetrain {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

const EntryPart* parts(const Tensor& table) {
  return reinterpret_cast<const EntryPart*>(table.const_data_ptr<int64_t>());
}

// The caller in Python has checked dtypes and shapes.
std::tuple<Tensor, Tensor, Tensor> sort_entries_cpu(const Tensor& index, const Tensor& rows,
                                                    const Tensor& columns, int64_t v, int64_t width,
                                                    int64_t segments, int64_t groups) {
  SortEntries sort({index.const_data_ptr<int64_t>(), index.size(0), v, parts(rows), rows.size(0),
                    parts(columns), columns.size(0), groups, segments, width});
  const int64_t total = sort.count();
  STD_TORCH_CHECK(total >= 0,
                  "sort_entries: index must ascend and stay inside the matrix, and its groups and"
                  " channels inside theirs");
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
