// The boxes that greedy non-maximum suppression has kept so far in a group, and the question which
// of them suppresses another box: as a list, for small groups. kept_index.h is for large ones. Both
// give the answers of suppresses() in math/box.h.
#pragma once

#include <limits>
#include <vector>

#include "../math/box.h"
#include "simd.h"

namespace focaldet {

constexpr int64_t kNone = -1;

// As many boxes as fill a vector of 512 bits, by coordinate; unused places hold boxes that touch
// nothing. Areas are computed again rather than stored: memory is what the large groups lack.
template <class T>
struct alignas(64) BoxRow {
  static constexpr int kSize = 64 / sizeof(T);
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

  FD_SIMD_INLINE bool may_suppress(const Box<T>& other, T other_area, T threshold) const {
    int32_t any = 0;
    for (int i = 0; i < kSize; ++i) {
      any |= focaldet::may_suppress(box(i), area(box(i)), other, other_area, threshold);
    }
    return any != 0;
  }

  // The first that suppresses the box, or kNone.
  FD_SIMD_INLINE int64_t suppressor(const Box<T>& other, T other_area, T threshold) const {
    if (!may_suppress(other, other_area, threshold)) return kNone;
    for (int i = 0; i < kSize; ++i) {
      if (suppresses(box(i), area(box(i)), other, other_area, threshold)) return i;
    }
    return kNone;
  }
};

template <class T>
class KeptBoxes {
 public:
  explicit KeptBoxes(T threshold) : threshold_(threshold) {}

  int64_t size() const { return size_; }

  void clear() {
    size_ = 0;
    rows_.clear();
  }

  // Which of the kept boxes, in the order of keeping, is the first to suppress this one; kNone.
  int64_t suppressor(const Box<T>& box) const {
    int64_t found = kNone;
    const T box_area = area(box);
    vectorised([&]() FD_SIMD_LAMBDA {
      for (size_t r = 0; r < rows_.size() && found == kNone; ++r) {
        const int64_t i = rows_[r].suppressor(box, box_area, threshold_);
        if (i != kNone) found = static_cast<int64_t>(r) * BoxRow<T>::kSize + i;
      }
    });
    return found;
  }

  void add(const Box<T>& box) {
    const int place = static_cast<int>(size_++ % BoxRow<T>::kSize);
    if (place == 0) rows_.emplace_back();
    rows_.back().set(place, box);
  }

  // Keeps the box unless a kept one suppresses it.
  bool offer(const Box<T>& box) {
    if (suppressor(box) != kNone) return false;
    add(box);
    return true;
  }

 private:
  T threshold_;
  int64_t size_ = 0;
  std::vector<BoxRow<T>> rows_;
};

}  // namespace focaldet
