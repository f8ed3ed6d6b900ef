// sort_entries on the CPU. What it computes: sparsetrain/ops/sort_entries.py.
//
// A counting sort. One pass over the weights finds each one's key and offset and counts the keys;
// the next puts them where the counts say. As the weights ascend, no pass divides.
#pragma once
#include <algorithm>
#include <climits>
#include <cstdint>
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
      : source(source), start(source.segments * source.groups + 1) {
    key.reserve(source.count * std::min(source.v, source.rows));
  }

  // How many entries there are, or -1 where one lies outside the matrix, its groups or segments, or
  // does not fit 32 bits.
  int64_t count() {
    const int64_t channels = source.segments * source.width;
    bool inside = true;
    int64_t segment = 0, first = 0;  // those of the last channel: the next is most often near
    const bool ascending = each([&](int64_t, const EntryPart& row, const EntryPart& column) {
      const int64_t group = sum(row.group, column.group);
      const int64_t channel = sum(row.channel, column.channel);
      const int64_t offset = sum(row.offset, column.offset);
      const bool right = group >= 0 && group < source.groups && channel >= 0 &&
                         channel < channels && offset == int32_t(offset);
      inside = inside && right;
      if (!right) return;
      if (channel < first || channel >= first + source.width)
        segment = channel / source.width, first = segment * source.width;
      key.push_back(int32_t(segment * source.groups + group));
      start[key.back() + 1]++;
    });
    for (size_t k = 1; k < start.size(); k++) start[k] += start[k - 1];
    return ascending && inside && key.size() < size_t(INT_MAX) ? int64_t(key.size()) : -1;
  }

  // After count. to_start: [segments * groups + 1]; offset, place: [count()].
  void write(int32_t* to_start, int32_t* offset, int64_t* place) {
    std::copy(start.begin(), start.end(), to_start);
    const int32_t* next = key.data();
    each([&](int64_t i, const EntryPart& row, const EntryPart& column) {
      const int64_t at = start[*next++]++;
      offset[at] = int32_t(sum(row.offset, column.offset));
      place[at] = i;
    });
  }

 private:
  // Wraps around where it overflows: what comes out is looked at, not where it comes from.
  static int64_t sum(int64_t a, int64_t b) { return int64_t(uint64_t(a) + uint64_t(b)); }

  // visit(i, row, column) for all values i of the matrix; false if the index leads out of it.
  template <typename Visit>
  bool each(const Visit& visit) const {
    const int64_t groups = (source.rows + source.v - 1) / source.v;
    int64_t group = 0, first = 0;  // first: where the group begins in index
    for (int64_t e = 0; e < source.count; e++) {
      if (source.index[e] < 0) return false;
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
  std::vector<int32_t> key;  // of each entry
  std::vector<int64_t> start;
};

}  // namespace sparsetrain
