// gather_channels on the CPU. What it computes: sparsetrain/ops/gather_channels.py.
//
// Bytes only, so every dtype is the same. A tensor is [rows, planes, items] of `item` bytes each: a
// contiguous one has one plane, and its items are whole kernels; a channels_last one has a plane
// for each tap of the kernel, and its items are single elements.
//
// Raw pointers only: the same loop serves the PyTorch op (torch/gather_channels.cpp) and anything
// without PyTorch.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <map>
#include <utility>
#include <vector>

namespace sparsetrain {

struct Gather {
  const char* from;
  char* to;
  const int64_t *rows, *cols;  // null: all of them, in order
  int64_t rows_to;
  int64_t planes;      // of a row
  int64_t items_from;  // of a plane
  int64_t items_to;
  int64_t item;  // bytes
};

struct Run {
  int64_t begin, count;
};

// Neighbours in the list that are neighbours in memory, joined.
inline std::vector<Run> runs_of(const int64_t* index, int64_t n) {
  std::vector<Run> runs;
  for (int64_t i = 0; i < n; i++)
    if (!runs.empty() && runs.back().begin + runs.back().count == index[i])
      runs.back().count++;
    else
      runs.push_back({index[i], 1});
  return runs;
}

// memcpy, without the call where n is that of a small convolution kernel.
inline void copy_bytes(char* to, const char* from, int64_t n) {
  if (n < 16 || n > 128) {
    std::memcpy(to, from, n);
    return;
  }
  for (int64_t i = 0; i + 16 <= n; i += 16) std::memcpy(to + i, from + i, 16);
  std::memcpy(to + n - 16, from + n - 16, 16);  // overlaps the last one, where 16 does not divide n
}

template <typename Item>
void gather_items(char* to, const char* from, const int64_t* index, int64_t n) {
  for (int64_t i = 0; i < n; i++)
    std::memcpy(to + i * sizeof(Item), from + index[i] * sizeof(Item), sizeof(Item));
}

// One plane, columns and all.
inline void gather_plane(const Gather& g, char* to, const char* from,
                         const std::vector<Run>& runs) {
  const bool long_runs = int64_t(runs.size()) * 64 <= g.items_to * g.item;
  if (!long_runs && g.item == 1) return gather_items<uint8_t>(to, from, g.cols, g.items_to);
  if (!long_runs && g.item == 2) return gather_items<uint16_t>(to, from, g.cols, g.items_to);
  if (!long_runs && g.item == 4) return gather_items<uint32_t>(to, from, g.cols, g.items_to);
  if (!long_runs && g.item == 8) return gather_items<uint64_t>(to, from, g.cols, g.items_to);
  for (const Run& run : runs) {
    copy_bytes(to, from + run.begin * g.item, run.count * g.item);
    to += run.count * g.item;
  }
}

// Row r of the result; without cols it is one piece.
inline void gather_row(const Gather& g, int64_t r, const std::vector<Run>& runs) {
  const int64_t plane_from = g.items_from * g.item, plane_to = g.items_to * g.item;
  const char* from = g.from + (g.rows ? g.rows[r] : r) * g.planes * plane_from;
  char* to = g.to + r * g.planes * plane_to;
  if (!g.cols) return copy_bytes(to, from, g.planes * plane_to);
  for (int64_t p = 0; p < g.planes; p++)
    gather_plane(g, to + p * plane_to, from + p * plane_from, runs);
}

constexpr int64_t kGatherShare = 1 << 16;  // bytes that are worth a thread

// All rows of all tensors. Threads share out the bytes of the results together, so one large tensor
// and a hundred small ones are the same work; a row belongs to who has its first byte.
// Parallel(n, f) calls f(begin, end) over [0, n) on several threads.
template <typename Parallel>
void gather_all(const std::vector<Gather>& gathers, Parallel parallel) {
  std::map<std::pair<const int64_t*, int64_t>, std::vector<Run>> runs;
  std::vector<int64_t> start{0};  // of each result, in bytes
  for (const Gather& g : gathers) {
    start.push_back(start.back() + g.rows_to * g.planes * g.items_to * g.item);
    auto& of_cols = runs[{g.cols, g.items_to}];
    if (g.cols && of_cols.empty()) of_cols = runs_of(g.cols, g.items_to);
  }
  const int64_t total = start.back(), shares = (total + kGatherShare - 1) / kGatherShare;
  parallel(shares, [&](int64_t begin, int64_t end) {
    int64_t at = begin * kGatherShare;
    const int64_t until = std::min(end * kGatherShare, total);
    size_t i = std::upper_bound(start.begin(), start.end(), at) - start.begin() - 1;
    for (; at < until; at = start[++i]) {
      const Gather& g = gathers[i];
      const int64_t bytes = g.planes * g.items_to * g.item;
      const int64_t first = bytes ? (at - start[i] + bytes - 1) / bytes : g.rows_to;
      const auto& of_cols = runs.at({g.cols, g.items_to});
      for (int64_t r = first; r < g.rows_to && start[i] + r * bytes < until; r++)
        gather_row(g, r, of_cols);
    }
  });
}

}  // namespace sparsetrain
