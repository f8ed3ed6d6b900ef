// gather_channels on the GPU. What it computes: sparsetrain/ops/gather_channels.py.
//
// One launch serves up to kMaxTensors tensors: the table of where their bytes lie travels as a
// kernel argument. A warp owns one plane of one row (csrc/gather_channels.h), its lanes copy
// neighbouring units, each as wide as the alignment of an item allows, 16 bytes at best. Every
// byte kept is read and written once: bound by memory.
#include "../csrc/torch/gather_channels.h"
#include "tensors.cuh"

namespace sparsetrain {
namespace {

constexpr int kMaxTensors = 16, kLines = 8;

struct Copy {
  Gather bytes;
  int64_t lines;  // planes of all rows of the result
  int32_t unit;   // bytes a lane copies at a time: a power of two
};

struct Table {
  Copy copy[kMaxTensors];
};

template <typename Unit>
__device__ void copy_line(const Gather& g, const char* __restrict__ from, char* __restrict__ to,
                          const int64_t* __restrict__ cols) {
  const int64_t per_item = g.item / int64_t(sizeof(Unit)), units = g.items_to * per_item;
  const Unit* source = reinterpret_cast<const Unit*>(from);
  Unit* target = reinterpret_cast<Unit*>(to);
  for (int64_t u = threadIdx.x; u < units; u += 32) {
    int64_t where = u;
    if (cols) {
      // 32-bit division is several times cheaper, and a line of 2^32 units does not fit a GPU
      // twice.
      const uint32_t item = uint32_t(u) / uint32_t(per_item);
      where = cols[item] * per_item + (uint32_t(u) - item * uint32_t(per_item));
    }
    target[u] = __ldg(source + where);
  }
}

// blockIdx.y: tensor. blockDim: [32 lanes, kLines].
__global__ void __launch_bounds__(32 * kLines)
    gather_channels_kernel(const __grid_constant__ Table table, const int64_t* rows,
                           const int64_t* cols) {
  const Copy& copy = table.copy[blockIdx.y];
  const Gather& g = copy.bytes;
  const int64_t stride = int64_t(gridDim.x) * kLines;
  for (int64_t line = int64_t(blockIdx.x) * kLines + threadIdx.y; line < copy.lines;
       line += stride) {
    const int64_t row = line / g.planes, plane = line - row * g.planes;
    const int64_t source = (rows ? rows[row] : row) * g.planes + plane;
    const char* from = g.from + source * g.items_from * g.item;
    char* to = g.to + line * g.items_to * g.item;
    switch (copy.unit) {
      case 16:
        copy_line<uint4>(g, from, to, cols);
        break;
      case 8:
        copy_line<uint2>(g, from, to, cols);
        break;
      case 4:
        copy_line<uint32_t>(g, from, to, cols);
        break;
      case 2:
        copy_line<uint16_t>(g, from, to, cols);
        break;
      default:
        copy_line<uint8_t>(g, from, to, cols);
    }
  }
}

// The widest unit that divides an item and both addresses.
int32_t unit_of(const Gather& g) {
  const uint64_t bits = uint64_t(g.item) | uint64_t(g.from) | uint64_t(g.to) | 16;
  return int32_t(bits & -bits);
}

Copy copy_of(Gather g, int64_t rows, bool all_cols) {
  if (all_cols) {  // a row is then one piece
    g.item *= g.planes * g.items_to;
    g.planes = g.items_from = g.items_to = 1;
  }
  return {g, rows * g.planes, unit_of(g)};
}

void launch(const Table& table, int tensors, const int64_t* rows, const int64_t* cols,
            cudaStream_t stream) {
  int64_t lines = 0;
  for (int i = 0; i < tensors; i++) lines = std::max(lines, table.copy[i].lines);
  const unsigned blocks = unsigned(std::min<int64_t>((lines + kLines - 1) / kLines, 1 << 20));
  const dim3 grid(blocks, tensors), block(32, kLines);
  gather_channels_kernel<<<grid, block, 0, stream>>>(table, rows, cols);
  check_launch("gather_channels");
}

std::vector<Tensor> gather_channels_cuda(std::vector<Tensor> tensors, std::optional<Tensor> rows,
                                         std::optional<Tensor> cols) {
  std::vector<Tensor> out;
  for (const Tensor& t : tensors) out.push_back(gathered_like(t, rows, cols));
  if (out.empty() || out[0].numel() == 0) return out;
  const Device device(tensors[0]);

  for (size_t first = 0; first < tensors.size(); first += kMaxTensors) {
    const int count = int(std::min<size_t>(kMaxTensors, tensors.size() - first));
    Table table;
    for (int i = 0; i < count; i++) {
      const Gather g = gather_of(tensors[first + i], out[first + i]);
      table.copy[i] = copy_of(g, out[0].size(0), !cols);
    }
    launch(table, count, indices(rows), indices(cols), device.stream);
  }
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(sparsetrain, CUDA, m) {
  m.impl("gather_channels", TORCH_BOX(&gather_channels_cuda));
}

}  // namespace sparsetrain
