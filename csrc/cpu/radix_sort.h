// A stable sort of numbers by keys: least significant digits first, 11 bits at a time, leaving out
// the digits that all keys share. A read and a write of 8 bytes for each number and digit where
// keys differ in 32 bits only (16 bytes otherwise), and a read more to count the digits: 3 digits
// for float scores, 1 for the labels of a detector.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

namespace focaldet {

namespace radix {

struct Narrow {
  uint64_t bits;
  Narrow(uint64_t key, int64_t value) : bits(key << 32 | static_cast<uint64_t>(value)) {}
  Narrow() = default;
  uint64_t key() const { return bits >> 32; }
  int64_t value() const { return static_cast<int64_t>(bits & 0xffffffffu); }
};

struct Wide {
  uint64_t key_;
  int64_t value_;
  Wide(uint64_t key, int64_t value) : key_(key), value_(value) {}
  Wide() = default;
  uint64_t key() const { return key_; }
  int64_t value() const { return value_; }
};

template <class Item, class Key>
void sort(std::vector<int64_t>& values, uint64_t differing, const Key& key) {
  constexpr int kBits = 11;
  constexpr size_t kDigits = size_t{1} << kBits;
  std::vector<Item> items, sorted(values.size());
  items.reserve(values.size());
  for (const int64_t value : values) items.emplace_back(key(value), value);
  for (int shift = 0; shift < 64; shift += kBits) {
    if ((differing >> shift & (kDigits - 1)) == 0) continue;
    const auto digit = [&](const Item& item) { return item.key() >> shift & (kDigits - 1); };
    std::array<size_t, kDigits> next{};
    for (const Item& item : items) ++next[digit(item)];
    size_t first = 0;
    for (size_t& place : next) {
      const size_t count = place;
      place = first;
      first += count;
    }
    for (const Item& item : items) sorted[next[digit(item)]++] = item;
    items.swap(sorted);
  }
  for (size_t i = 0; i < values.size(); ++i) values[i] = items[i].value();
}

}  // namespace radix

// Values are at least 0; key(value) is a uint64_t.
template <class Key>
void stable_sort_by(std::vector<int64_t>& values, const Key& key) {
  if (values.size() <= 256) {  // less than counting costs
    std::stable_sort(values.begin(), values.end(),
                     [&](int64_t a, int64_t b) { return key(a) < key(b); });
    return;
  }
  uint64_t differing = 0, bits = 0;
  const uint64_t any = key(values[0]);
  for (const int64_t value : values) {
    differing |= key(value) ^ any;
    bits |= static_cast<uint64_t>(value);
  }
  // Keys that share their upper halves are told apart by the lower ones.
  if ((differing | bits) >> 32 == 0) {
    radix::sort<radix::Narrow>(values, differing, key);
  } else {
    radix::sort<radix::Wide>(values, differing, key);
  }
}

}  // namespace focaldet
