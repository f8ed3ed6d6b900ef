// sort_entries on the CPU. What it computes: sparsetrain/ops/sort_entries.py.
//
// A counting sort. One pass over the weights finds each one's key and offset and counts the keys;
// the next puts them where the counts say. As the weights ascend, no pass divides.
#pragma once
#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

namespace sparsetrain {

// What a row or a column of the matrix adds to an entry.
struct EntryPart {
  int64_t group, channel, offset;
};

struct EntrySource {
  const int64_t* index;  // [count], ascending
  int64_t count, v;
  const EntryPart* row;
  int64_t rows;
  const EntryPart* column;
  int64_t columns;
  int64_t groups, segments, width;  // width: channels of a segment
};

class SortEntries {
 public:
  explicit SortEntries(const EntrySource& source)
      : source(source),
        key(new int32_t[source.count * source.v]),
        start(source.segments * source.groups + 1) {}

  // How many entries there are, or -1 where one lies outside the matrix, its groups or segments.
  int64_t count() {
    std::vector<int64_t> segment(source.segments * source.width);
    for (size_t c = 0; c < segment.size(); c++) segment[c] = int64_t(c) / source.width;
    bool inside = true;
    int64_t total = 0;
    const bool ascending = each([&](int64_t i, const EntryPart& row, const EntryPart& column) {
      const int64_t group = row.group + column.group, channel = row.channel + column.channel;
      const bool right =
          group >= 0 && group < source.groups && channel >= 0 && channel < int64_t(segment.size());
      inside = inside && right;
      if (!right) return;
      key[i] = int32_t(segment[channel] * source.groups + group);
      start[key[i] + 1]++;
      total++;
    });
    for (size_t k = 1; k < start.size(); k++) start[k] += start[k - 1];
    return ascending && inside ? total : -1;
  }

  // After count. to_start: [segments * groups + 1]; offset, place: [count()].
  void write(int32_t* to_start, int32_t* offset, int64_t* place) {
    std::copy(start.begin(), start.end(), to_start);
    each([&](int64_t i, const EntryPart& row, const EntryPart& column) {
      const int64_t at = start[key[i]]++;
      offset[at] = int32_t(row.offset + column.offset);
      place[at] = i;
    });
  }

 private:
  // visit(i, row, column) for all values i of the matrix; false if the index leads out of it.
  template <typename Visit>
  bool each(const Visit& visit) const {
    const int64_t groups = (source.rows + source.v - 1) / source.v;
    int64_t group = 0, first = 0;  // first: where the group begins in index
    for (int64_t e = 0; e < source.count; e++) {
      while (source.index[e] - first >= source.columns && group < groups)
        group++, first += source.columns;
      const int64_t column = source.index[e] - first;
      if (column < 0 || group == groups) return false;
      const int64_t live = std::min(source.v, source.rows - group * source.v);
      for (int64_t j = 0; j < live; j++)
        visit(e * source.v + j, source.row[group * source.v + j], source.column[column]);
    }
    return true;
  }

  EntrySource source;
  std::unique_ptr<int32_t[]> key;  // of each value
  std::vector<int64_t> start;
};

}  // namespace sparsetrain
