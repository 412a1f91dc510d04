// Greedy non-maximum suppression of one group on the CPU: what nms.cpp and postprocess.cpp share.
#pragma once

#include <algorithm>
#include <vector>

#include "../math/box.h"
#include "simd.h"

namespace focaldet {

// Candidates in falling order of score are offered one by one; each is tested against the boxes
// kept so far, a structure of arrays, in chunks with an early exit. O(kept) memory, kept * offered
// tests.
template <class T>
class KeptBoxes {
 public:
  explicit KeptBoxes(T threshold) : threshold_(threshold) {}

  int64_t size() const { return static_cast<int64_t>(x1_.size()); }

  void clear() {
    for (auto* column : {&x1_, &y1_, &x2_, &y2_, &areas_}) column->clear();
  }

  // Keeps the box unless a kept one suppresses it.
  bool offer(const Box<T>& box) {
    const T box_area = area(box);
    if (suppressed(box, box_area)) return false;
    x1_.push_back(box.x1);
    y1_.push_back(box.y1);
    x2_.push_back(box.x2);
    y2_.push_back(box.y2);
    areas_.push_back(box_area);
    return true;
  }

 private:
  bool suppressed(const Box<T>& box, T box_area) const {
    const int64_t n = size();
    const T *x1 = x1_.data(), *y1 = y1_.data(), *x2 = x2_.data(), *y2 = y2_.data();
    const T* areas = areas_.data();
    const T threshold = threshold_;
    bool found = false;
    vectorised([&]() FD_SIMD_LAMBDA {
      constexpr int64_t kChunk = 128;
      int64_t first = 0;
      for (; first + kChunk <= n && !found; first += kChunk) {
        int32_t any = 0;
        for (int64_t i = first; i < first + kChunk; ++i) {
          any |= suppresses<T>({x1[i], y1[i], x2[i], y2[i]}, areas[i], box, box_area, threshold);
        }
        found = any != 0;
      }
      int32_t any = 0;
      for (int64_t i = first; i < n && !found; ++i) {
        any |= suppresses<T>({x1[i], y1[i], x2[i], y2[i]}, areas[i], box, box_area, threshold);
      }
      found |= any != 0;
    });
    return found;
  }

  T threshold_;
  std::vector<T> x1_, y1_, x2_, y2_, areas_;
};

}  // namespace focaldet
