// gather_channels on the GPU. What it computes: sparsetrain/ops/gather_channels.py.
//
// One launch serves all tensors, of any shapes and dtypes: their table lies in device memory, and a
// grid that fills the device shares out chunks of all of them. A line is one plane of one row
// (csrc/gather_channels.h), or all of a tensor of which everything is kept. As many lanes as a line
// has use for own a strip of it and copy neighbouring units, each as wide as the alignment of an
// item allows, 16 bytes at best, two at once. Every byte kept is
// read and written once: bound by memory.
#pragma once
#include "../csrc/gather_channels.h"
#include "blocks.cuh"

namespace sparsetrain {
namespace {

constexpr int kAhead = 2;                  // units a lane loads before it stores them
constexpr int64_t kStripUnits = 1 << 8;    // of a line
constexpr int64_t kGatherChunk = 1 << 12;  // units

struct CopyJob {
  Gather bytes;
  int64_t units;        // of a line of the result
  int64_t per_item;     // units
  int64_t strips;       // of a line
  int64_t numel;        // strips of all lines
  int64_t chunk;        // strips of a chunk
  int64_t first_chunk;  // chunks of the tensors before it
  int32_t unit;         // bytes: a power of two
  int32_t lanes;        // of a warp, for one strip: a power of two
};

// What a block works on: `count` strips of a tensor. Only where they begin takes 64-bit divisions,
// which are several times dearer.
struct Chunk {
  CopyJob job;
  int64_t line, row;      // of the first strip
  uint32_t strip, plane;  // of that line; of that row
  int count;
};

__device__ __forceinline__ void set_chunk(Chunk& chunk, const CopyJob* jobs, int count, int64_t c) {
  chunk.job = jobs[row_of(jobs, count, c, &CopyJob::first_chunk)];
  const CopyJob& job = chunk.job;
  const int64_t begin = (c - job.first_chunk) * job.chunk, left = job.numel - begin;
  chunk.line = begin / job.strips;
  chunk.row = chunk.line / job.bytes.planes;
  chunk.strip = uint32_t(begin - chunk.line * job.strips);
  chunk.plane = uint32_t(chunk.line - chunk.row * job.bytes.planes);
  chunk.count = int(left < job.chunk ? left : job.chunk);
}

// `count` units of a line from `first` on, of which this lane copies each `lanes`-th from its own.
// place(u): where in the source line unit u of the result's comes from.
template <typename Unit, typename Place>
__device__ __forceinline__ void copy_strip(const char* from, char* to, int64_t first, int count,
                                           int lanes, Place place) {
  const Unit* source = reinterpret_cast<const Unit*>(from);
  Unit* target = reinterpret_cast<Unit*>(to) + first;
#pragma unroll 1
  for (int u = threadIdx.x % lanes; u < count; u += kAhead * lanes) {
    Unit held[kAhead];
#pragma unroll
    for (int a = 0; a < kAhead; a++)
      if (u + a * lanes < count) held[a] = __ldg(source + place(first + u + a * lanes));
#pragma unroll
    for (int a = 0; a < kAhead; a++)
      if (u + a * lanes < count) __stcs(target + u + a * lanes, held[a]);
  }
}

template <typename Unit>
__device__ __forceinline__ void copy_chunk(const Chunk& chunk) {
  const CopyJob& job = chunk.job;
  const Gather& g = job.bytes;
  for (int i = threadIdx.x / job.lanes; i < chunk.count; i += kThreads / job.lanes) {
    const uint32_t strip = chunk.strip + i, line = strip / uint32_t(job.strips);
    const int64_t to = chunk.line + line,
                  row = chunk.row + (chunk.plane + line) / uint32_t(g.planes);
    const int64_t from = to + (g.rows ? __ldg(g.rows + row) - row : 0) * g.planes;
    const int64_t first = int64_t(strip - line * uint32_t(job.strips)) * kStripUnits;
    const int64_t left = job.units - first;
    const char* source = g.from + from * g.items_from * g.item;
    char* target = g.to + to * g.items_to * g.item;
    const int count = int(left < kStripUnits ? left : kStripUnits);
    if (!g.cols) {
      copy_strip<Unit>(source, target, first, count, job.lanes, [](int64_t u) { return u; });
      continue;
    }
    copy_strip<Unit>(source, target, first, count, job.lanes, [&](int64_t u) {
      const uint32_t per_item = uint32_t(job.per_item);  // a line of 2^32 units does not fit twice
      const uint32_t item = uint32_t(u) / per_item;
      return u + (__ldg(g.cols + item) - item) * per_item;
    });
  }
}

__global__ void __launch_bounds__(kThreads, 2)
    gather_channels_kernel(const CopyJob* __restrict__ jobs, int count, int64_t chunks) {
  __shared__ Chunk chunk;
  for (int64_t c = blockIdx.x; c < chunks; c += gridDim.x) {
    if (threadIdx.x == 0) set_chunk(chunk, jobs, count, c);
    __syncthreads();
    switch (chunk.job.unit) {
      case 16:
        copy_chunk<uint4>(chunk);
        break;
      case 8:
        copy_chunk<unsigned long long>(chunk);
        break;
      case 4:
        copy_chunk<unsigned>(chunk);
        break;
      case 2:
        copy_chunk<unsigned short>(chunk);
        break;
      default:
        copy_chunk<unsigned char>(chunk);
    }
    __syncthreads();
  }
}

// The widest unit that divides an item and both addresses.
inline int32_t unit_of(const Gather& g) {
  const uint64_t bits = uint64_t(g.item) | reinterpret_cast<uintptr_t>(g.from) |
                        reinterpret_cast<uintptr_t>(g.to) | 16;
  return int32_t(bits & -bits);
}

// g is not empty.
inline CopyJob copy_job(Gather g) {
  if (!g.cols) {  // a row is then one piece, and without rows everything is
    g.item *= g.planes * g.items_to;
    g.planes = g.items_from = g.items_to = 1;
    if (!g.rows) g.item *= g.rows_to, g.rows_to = 1;
  }
  CopyJob job{};
  job.bytes = g;
  job.unit = unit_of(g);
  job.per_item = g.item / job.unit;
  job.units = g.items_to * job.per_item;
  job.strips = (job.units + kStripUnits - 1) / kStripUnits;
  job.numel = g.rows_to * g.planes * job.strips;
  for (job.lanes = 1; job.lanes < 32 && job.lanes < job.units;) job.lanes *= 2;
  const int64_t most = std::min(job.units, kStripUnits);
  job.chunk = std::max<int64_t>(kThreads / job.lanes, kGatherChunk / most);
  return job;
}

// Fills in first_chunk of each; returns how many chunks there are.
inline int64_t number_copies(std::vector<CopyJob>& jobs) {
  int64_t chunks = 0;
  for (CopyJob& job : jobs) {
    job.first_chunk = chunks;
    chunks += (job.numel + job.chunk - 1) / job.chunk;
  }
  return chunks;
}

}  // namespace
}  // namespace sparsetrain
