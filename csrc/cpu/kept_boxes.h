// The boxes that greedy non-maximum suppression has kept so far in a group, and the question which
// of them suppresses another box: as a list, while they are few. kept_index.h is for more. Both
// give the answers of suppresses() in math/box.h.
#pragma once

#include <limits>
#include <vector>

#include "../math/box.h"
#include "simd.h"

namespace focaldet {

constexpr int64_t kNone = -1;
constexpr int64_t kListed = 256;  // kept boxes: of more, an index is faster

// Boxes in vectors of 512 bits, by coordinate; unused places hold boxes that touch nothing. Areas
// are computed again rather than stored: memory is what the large groups lack.
template <class T, int kVectors>
struct alignas(64) BoxRow {
  static constexpr int kSize = kVectors * 64 / sizeof(T);
  T x1[kSize], y1[kSize], x2[kSize], y2[kSize];

  BoxRow() {
    for (int i = 0; i < kSize; ++i) {
      x1[i] = y1[i] = std::numeric_limits<T>::infinity();
      x2[i] = y2[i] = -std::numeric_limits<T>::infinity();
    }
  }

  FD_SIMD_INLINE Box<T> box(int i) const { return {x1[i], y1[i], x2[i], y2[i]}; }

  void set(int i, const Box<T>& box) {
    x1[i] = box.x1;
    y1[i] = box.y1;
    x2[i] = box.x2;
    y2[i] = box.y2;
  }

  // The first place whose box suppresses this one (any number, unless kBest); kNone without.
  template <bool kBest>
  FD_SIMD_INLINE int64_t suppressor(const Box<T>& other, T other_area, T threshold) const {
    int32_t any = 0;
    for (int i = 0; i < kSize; ++i) {
      any |= may_suppress(box(i), area(box(i)), other, other_area, threshold);
    }
    if (any == 0) return kNone;
    if constexpr (kBest) {
      for (int i = 0; i < kSize; ++i) {
        if (suppresses(box(i), area(box(i)), other, other_area, threshold)) return i;
      }
      return kNone;
    }
    any = 0;
    for (int i = 0; i < kSize; ++i) {
      any |= suppresses(box(i), area(box(i)), other, other_area, threshold);
    }
    return any == 0 ? kNone : 0;
  }
};

template <class T>
class KeptBoxes {
 public:
  explicit KeptBoxes(T threshold) : threshold_(threshold) {}

  int64_t size() const { return size_; }
  Box<T> box(int64_t i) const { return rows_[i / kSize].box(static_cast<int>(i % kSize)); }

  // The first, in the order of keeping, that suppresses this one (any number, unless kBest), kNone
  // without.
  template <bool kBest>
  FD_SIMD_INLINE int64_t suppressor(const Box<T>& box) const {
    const T box_area = area(box);
    for (size_t r = 0; r < rows_.size(); ++r) {
      const int64_t i = rows_[r].template suppressor<kBest>(box, box_area, threshold_);
      if (i != kNone) return static_cast<int64_t>(r) * kSize + i;
    }
    return kNone;
  }

  void add(const Box<T>& box) {
    const int place = static_cast<int>(size_++ % kSize);
    if (place == 0) rows_.emplace_back();
    rows_.back().set(place, box);
  }

  // Keeps the box unless a kept one suppresses it.
  bool offer(const Box<T>& box) {
    int64_t found = kNone;
    vectorised([&]() FD_SIMD_LAMBDA { found = suppressor<false>(box); });
    if (found == kNone) add(box);
    return found == kNone;
  }

 private:
  using Row = BoxRow<T, 4>;  // a branch for every 64 floats
  static constexpr int kSize = Row::kSize;

  T threshold_;
  int64_t size_ = 0;
  std::vector<Row> rows_;
};

}  // namespace focaldet
