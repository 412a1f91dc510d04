// A stable sort by 64-bit keys: least significant digits first, 11 bits at a time, leaving out the
// digits that all keys share. Two reads and a write of 16 bytes for each item and digit: 3 digits
// for float scores, 1 for the labels of a detector.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

namespace focaldet {

struct Keyed {
  uint64_t key;
  int64_t value;
};

inline void radix_sort(std::vector<Keyed>& items) {
  constexpr int kBits = 11;
  constexpr size_t kDigits = size_t{1} << kBits, kFew = 256;
  const auto before = [](const Keyed& a, const Keyed& b) { return a.key < b.key; };
  if (items.size() <= kFew) {  // less than a histogram costs
    std::stable_sort(items.begin(), items.end(), before);
    return;
  }
  uint64_t differing = 0;
  for (const Keyed& item : items) differing |= item.key ^ items[0].key;
  std::vector<Keyed> sorted;
  for (int shift = 0; shift < 64; shift += kBits) {
    const auto digit = [&](const Keyed& item) { return item.key >> shift & (kDigits - 1); };
    if ((differing >> shift & (kDigits - 1)) == 0) continue;
    std::array<size_t, kDigits> next{};
    for (const Keyed& item : items) ++next[digit(item)];
    size_t first = 0;
    for (size_t& place : next) {
      const size_t count = place;
      place = first;
      first += count;
    }
    sorted.resize(items.size());
    for (const Keyed& item : items) sorted[next[digit(item)]++] = item;
    items.swap(sorted);
  }
}

}  // namespace focaldet
