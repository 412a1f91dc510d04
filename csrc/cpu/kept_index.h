// The boxes that greedy non-maximum suppression has kept so far in a large group, found again by
// place and size: a box is compared with a few kept ones, however many there are.
//
// If the IoU of two boxes exceeds t, their sides along each axis overlap by more than t times the
// longer one. So
//   - the longer of a box's two sides is within a factor of t of the other's: boxes are sorted into
//     levels by its binary exponent, and only levels within that factor are looked at;
//   - one box reaches into the other by more than t times that one's side: a kept box is entered
//     into every cell of its level's grid that it touches, and another looks into the cells that
//     its middle touches, what is left when t (at most a half) of the side is cut off at each end.
// Cells are larger than the sides of their level's boxes, so a box is entered at most 4 times, and
// for t >= 1/2 its middle lies nearly always in one cell a level. Cells are hashed to buckets
// without telling them apart: two in one bucket cost comparisons, never the answer.
//
// All of it holds for rounded arithmetic, too. Let c = fl(s w) be what is cut off a side w at x1.
// Rounding is monotone, so if the middle begins behind a kept box's right edge, x2 < fl(x1 + c),
// then x2 - x1 < c, and so is the rounded overlap at most c; with u half a unit in the last place
// the rounded quotient is at most s (1 + 8u), and s = t (1 - 2^-10) is below t by more than that.
// Scaling by a power of two and rounding down are monotone, so what overlaps shares a cell. Areas
// near the smallest normal number have larger errors: off boxes of such, and with thresholds below
// 2^-8, nothing is cut. (If only the kept box is such a one, then either its errors are still below
// that margin, or it is so much smaller than the other that the quotient is below 2^-9.)
//
// A box whose middle touches more cells of a level than there are rows goes through all rows: so
// sizes far apart, or a small threshold, cost no more than a list would.
//
// Memory: 8 bytes a bucket, of which there are half as many as boxes, and rows of 256 bytes (and
// 128 more if ranks are asked for), each of 16 floats' or 8 doubles' boxes of one bucket.
#pragma once

#include <cmath>
#include <cstring>
#include <type_traits>

#include "kept_boxes.h"

namespace focaldet {

// The binary exponent of a number that is not negative, counted from that of the subnormal ones.
inline int exponent(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return static_cast<int>(bits >> 23);
}
inline int exponent(double x) {
  uint64_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return static_cast<int>(bits >> 52);
}

// kBest: which box suppresses matters, the one of the lowest rank; else any will do.
template <class T, bool kBest>
class KeptIndex {
 public:
  // For about as many boxes.
  KeptIndex(T threshold, int64_t boxes)
      : threshold_(threshold),
        cut_(threshold < T(0x1p-8) ? T(0) : min_(threshold, T(0.5)) * T(1 - 0x1p-10)) {
    int bits = 6;
    while ((int64_t{1} << bits) < boxes / 2) ++bits;
    shift_ = 64 - bits;
    last_.assign(size_t{1} << bits, kNone);
  }

  void clear() {
    std::fill(last_.begin(), last_.end(), kNone);
    std::fill(present_, present_ + kLevels, false);
    lowest_ = kLevels;
    highest_ = -1;
    rows_.clear();
    previous_.clear();
    ranks_.clear();
  }

  // The rank of a kept box that suppresses this one (any number, unless kBest); kNone without.
  FD_SIMD_INLINE int64_t suppressor(const Box<T>& box) const {
    if (!can_overlap(box)) return kNone;
    const Query query{box, area(box)};
    const T cut = query.area < kTinyArea ? T(0) : cut_;
    const T width = box.x2 - box.x1, height = box.y2 - box.y1, side = max_(width, height);
    const int first = std::max(exponent(side * cut), lowest_);
    const int last = std::min(exponent(side / cut), highest_);
    const T x1 = box.x1 + cut * width, x2 = max_(box.x2 - cut * width, x1);
    const T y1 = box.y1 + cut * height, y2 = max_(box.y2 - cut * height, y1);
    int64_t best = kNone;
    for (int level = first; level <= last; ++level) {
      if (!present_[level]) continue;
      const Cells cells(level, x1, y1, x2, y2);
      if (cells.more_than(static_cast<int64_t>(rows_.size()))) return in_all_rows(query);
      for (int64_t y = cells.y1; y <= cells.y2; ++y) {
        for (int64_t x = cells.x1; x <= cells.x2; ++x) {
          const int64_t found = in_bucket(bucket(level, y, x), query);
          if (found != kNone && !kBest) return found;
          best = better(best, found);
        }
      }
    }
    return best;
  }

  // Ranks rise from box to box.
  FD_SIMD_INLINE void add(const Box<T>& box, int64_t rank) {
    if (!can_overlap(box)) return;
    const int level = exponent(max_(box.x2 - box.x1, box.y2 - box.y1));
    present_[level] = true;
    lowest_ = std::min(lowest_, level);
    highest_ = std::max(highest_, level);
    const Cells cells(level, box.x1, box.y1, box.x2, box.y2);
    for (int64_t y = cells.y1; y <= cells.y2; ++y) {
      for (int64_t x = cells.x1; x <= cells.x2; ++x) enter(bucket(level, y, x), box, rank);
    }
  }

 private:
  using Row = BoxRow<T, 1>;
  static constexpr int kSize = Row::kSize;
  static constexpr int kLevels = sizeof(T) == 4 ? 256 : 2048;
  static constexpr T kTinyArea = std::numeric_limits<T>::min() * T(0x1p20);

  struct Query {
    const Box<T>& box;
    T area;
  };

  // The others neither suppress nor are suppressed: where a side is not positive no intersection
  // is, and where the area is infinite the quotient is 0 or NaN.
  static FD_SIMD_INLINE bool can_overlap(const Box<T>& box) {
    const T box_area = area(box);
    return (box.x1 < box.x2) & (box.y1 < box.y2) & (box_area <= std::numeric_limits<T>::max());
  }

  // The cells of a level from corner to corner. A coordinate is at most 2^24 times a side (2^53 in
  // double), as the next number is a side away; and where a level's boxes are much smaller than one
  // that is looked for, infinity and what no integer holds become the largest.
  struct Cells {
    int64_t x1, y1, x2, y2;

    FD_SIMD_INLINE Cells(int level, T left, T top, T right, T bottom) {
      // One over the power of two above a level's sides; near infinity a level has one cell.
      constexpr int kBias = kLevels / 2 - 1, kLargest = 2 * kBias - 1;
      const T scale = level < kLargest ? power_of_two(kLargest - level - kBias) : T(0);
      x1 = cell(left * scale);
      y1 = cell(top * scale);
      x2 = cell(right * scale);
      y2 = cell(bottom * scale);
    }

    FD_SIMD_INLINE bool more_than(int64_t n) const {
      const int64_t columns = x2 - x1 + 1, rows = y2 - y1 + 1;
      return columns > n || rows > n || columns * rows > n;
    }

    static FD_SIMD_INLINE int64_t cell(T scaled) {
      constexpr T kMost = T(0x1p60);
      return static_cast<int64_t>(std::floor(min_(max_(scaled, -kMost), kMost)));
    }
    static FD_SIMD_INLINE T power_of_two(int n) {
      T result;
      std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t> bits = n + kLevels / 2 - 1;
      bits <<= std::numeric_limits<T>::digits - 1;
      std::memcpy(&result, &bits, sizeof bits);
      return result;
    }
  };

  FD_SIMD_INLINE size_t bucket(int level, int64_t y, int64_t x) const {
    const uint64_t mixed = static_cast<uint64_t>(x) * 0x9e3779b97f4a7c15u +
                           static_cast<uint64_t>(y) * 0xc2b2ae3d27d4eb4fu +
                           static_cast<uint64_t>(level) * 0x165667b19e3779f9u;
    return (mixed ^ mixed >> 32) * 0xd6e8feb86659fd93u >> shift_;
  }

  static FD_SIMD_INLINE int64_t better(int64_t a, int64_t b) {
    return a == kNone || (b != kNone && b < a) ? b : a;
  }

  FD_SIMD_INLINE int64_t in_row(int64_t row, const Query& query) const {
    const int64_t i = rows_[row].template suppressor<kBest>(query.box, query.area, threshold_);
    if constexpr (kBest) return i == kNone ? kNone : ranks_[row * kSize + i];
    return i;
  }

  // Of a bucket's rows the earlier ones have the lower ranks.
  FD_SIMD_INLINE int64_t in_bucket(size_t bucket, const Query& query) const {
    int64_t best = kNone;
    if (last_[bucket] == kNone) return kNone;
    for (int64_t row = last_[bucket] / kSize; row != kNone; row = previous_[row]) {
      const int64_t found = in_row(row, query);
      if (found == kNone) continue;
      best = found;
      if (!kBest) break;
    }
    return best;
  }

  FD_SIMD_INLINE int64_t in_all_rows(const Query& query) const {
    int64_t best = kNone;
    for (int64_t row = 0; row < static_cast<int64_t>(rows_.size()); ++row) {
      best = better(best, in_row(row, query));
      if (!kBest && best != kNone) break;
    }
    return best;
  }

  void enter(size_t bucket, const Box<T>& box, int64_t rank) {
    int64_t place = last_[bucket] + 1;
    if (place % kSize == 0) {  // none yet, or the row is full
      const int64_t before = place == 0 ? kNone : (place - 1) / kSize;
      place = static_cast<int64_t>(rows_.size()) * kSize;
      rows_.emplace_back();
      previous_.push_back(before);
      if (kBest) ranks_.resize(ranks_.size() + kSize);
    }
    rows_[place / kSize].set(static_cast<int>(place % kSize), box);
    if (kBest) ranks_[place] = rank;
    last_[bucket] = place;
  }

  T threshold_, cut_;
  int shift_, lowest_ = kLevels, highest_ = -1;
  bool present_[kLevels] = {};
  std::vector<int64_t> last_;  // by bucket: the last place taken, row * kSize + lane
  std::vector<Row> rows_;
  std::vector<int64_t> previous_;  // by row: the one of its bucket that filled up before
  std::vector<int64_t> ranks_;     // by place
};

// A list while they are few, then an index.
template <class T>
class KeptGroup {
 public:
  explicit KeptGroup(T threshold) : threshold_(threshold), list_(threshold) {}

  // Keeps the box unless a kept one suppresses it.
  bool offer(const Box<T>& box) {
    if (index_.empty() && list_.size() < kListed) return list_.offer(box);
    bool keeps = false;
    vectorised([&]() FD_SIMD_LAMBDA {
      if (index_.empty()) {
        index_.emplace_back(threshold_, kExpected);
        for (int64_t i = 0; i < kListed; ++i) index_[0].add(list_.box(i), i);
      }
      keeps = index_[0].suppressor(box) == kNone;
      if (keeps) index_[0].add(box, 0);
    });
    return keeps;
  }

 private:
  static constexpr int64_t kExpected = 8192;  // more of them lie closer in the index

  T threshold_;
  KeptBoxes<T> list_;
  std::vector<KeptIndex<T, false>> index_;  // one, or none yet
};

}  // namespace focaldet
