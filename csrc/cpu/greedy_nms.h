// Exact greedy non-maximum suppression of the boxes of one image on the CPU: what the operators of
// nms.cpp share.
#pragma once

#include <optional>
#include <vector>

#include "../math/box.h"

namespace focaldet {

constexpr int64_t kHugeGroup = 32768;  // boxes that pay for threads of their own

template <class T>
struct NmsProblem {
  int64_t n;
  const Box<T>* boxes;
  const T* scores;
  const int64_t* groups;  // null: all are one group
  T iou_threshold;
  std::optional<T> score_threshold;  // candidates have scores above it
  int64_t limit;
};

// The kept rows by falling score, ties by the lower row, at most `limit`. match, if not null, is
// [n]: of every row the best kept one that suppresses it, itself if it is kept, or -1; `limit` must
// be n then.
template <class T>
std::vector<int64_t> greedy_nms(const NmsProblem<T>& problem, int64_t* match = nullptr);

}  // namespace focaldet
