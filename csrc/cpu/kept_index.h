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
// Areas near the smallest normal number have larger errors, and tiny thresholds no room for any:
// then nothing is cut off. Scaling by a power of two and rounding down are exact and monotone, so
// what overlaps shares a cell.
//
// Memory: a row of 16 floats for the boxes of a bucket, 4 bytes a bucket.
#pragma once

#include <cmath>
#include <cstring>
#include <type_traits>

#include "kept_boxes.h"

namespace focaldet {

// Positive numbers by binary exponent, and the power of two above those of an exponent.
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

template <class T>
class KeptIndex {
 public:
  static constexpr int64_t kMost = int64_t{1} << 28;  // boxes: places are 32-bit numbers

  // For as many of the boxes [first, last).
  KeptIndex(T threshold, int64_t boxes, const Box<T>* first, const Box<T>* last)
      : threshold_(threshold) {
    constexpr T kInfinity = std::numeric_limits<T>::infinity();
    T longest_side = 0, smallest_area = kInfinity;
    for (const Box<T>* box = first; box < last; ++box) {
      if (!can_overlap(*box)) continue;
      longest_side = max_(longest_side, max_(box->x2 - box->x1, box->y2 - box->y1));
      smallest_area = min_(smallest_area, area(*box));
    }
    const bool exact = smallest_area < std::numeric_limits<T>::min() * T(0x1p20);
    if (!exact && threshold >= T(0x1p-20)) cut_ = min_(threshold, T(0.5)) * T(1 - 0x1p-10);
    // Where the threshold says little about sizes, small boxes share the cells of larger ones,
    // lest a large box look into too many.
    if (cut_ < T(0.125)) floor_ = std::max(exponent(longest_side) - 3, 0);
    int bits = 6;
    while ((int64_t{1} << bits) < boxes / 2) ++bits;
    shift_ = 64 - bits;
    last_.assign(size_t{1} << bits, -1);
  }

  void clear() {
    std::fill(last_.begin(), last_.end(), -1);
    std::fill(present_, present_ + kLevels, false);
    lowest_ = kLevels;
    highest_ = -1;
    rows_.clear();
    previous_.clear();
    ranks_.clear();
  }

  // The rank of a kept box that suppresses this one, kNone without: of the best one, or of any.
  template <bool kBest>
  FD_SIMD_INLINE int64_t suppressor(const Box<T>& box) const {
    if (!can_overlap(box)) return kNone;
    const T box_area = area(box), width = box.x2 - box.x1, height = box.y2 - box.y1;
    const T side = max_(width, height);
    const int first = std::max(exponent(side * cut_), lowest_);
    const int last = std::min(std::max(exponent(side / cut_), floor_), highest_);
    const T x1 = box.x1 + cut_ * width, x2 = max_(box.x2 - cut_ * width, x1);
    const T y1 = box.y1 + cut_ * height, y2 = max_(box.y2 - cut_ * height, y1);
    int64_t best = kNone;
    for (int level = first; level <= last; ++level) {
      if (!present_[level]) continue;
      const Cells cells(level, x1, y1, x2, y2);
      for (int64_t y = cells.y1; y <= cells.y2; ++y) {
        for (int64_t x = cells.x1; x <= cells.x2; ++x) {
          const int64_t found = in_bucket<kBest>(bucket(level, y, x), box, box_area);
          if (found == kNone) continue;
          if (!kBest) return found;
          if (best == kNone || found < best) best = found;
        }
      }
    }
    return best;
  }

  FD_SIMD_INLINE void add(const Box<T>& box, int64_t rank) {
    if (!can_overlap(box)) return;
    const int level = std::max(exponent(max_(box.x2 - box.x1, box.y2 - box.y1)), floor_);
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

  // The others neither suppress nor are suppressed: where a side is not positive no intersection
  // is, and where the area is infinite the quotient is 0 or NaN.
  static FD_SIMD_INLINE bool can_overlap(const Box<T>& box) {
    const T box_area = area(box);
    return (box.x1 < box.x2) & (box.y1 < box.y2) & (box_area <= std::numeric_limits<T>::max());
  }

  // Coordinates are at most 2^53 times a side, so that these fit.
  struct Cells {
    int64_t x1, y1, x2, y2;
    FD_SIMD_INLINE Cells(int level, T left, T top, T right, T bottom) {
      // Levels near infinity have one cell.
      constexpr int kBias = kLevels / 2 - 1;
      const T scale = level < 2 * kBias - 1 ? power_of_two_below(2 * kBias - 1 - level) : T(0);
      x1 = static_cast<int64_t>(std::floor(left * scale));
      y1 = static_cast<int64_t>(std::floor(top * scale));
      x2 = static_cast<int64_t>(std::floor(right * scale));
      y2 = static_cast<int64_t>(std::floor(bottom * scale));
    }
    static FD_SIMD_INLINE T power_of_two_below(int biased) {
      T result;
      if constexpr (sizeof(T) == 4) {
        const uint32_t bits = static_cast<uint32_t>(biased) << 23;
        std::memcpy(&result, &bits, sizeof bits);
      } else {
        const uint64_t bits = static_cast<uint64_t>(biased) << 52;
        std::memcpy(&result, &bits, sizeof bits);
      }
      return result;
    }
  };

  FD_SIMD_INLINE size_t bucket(int level, int64_t y, int64_t x) const {
    const uint64_t mixed = static_cast<uint64_t>(x) * 0x9e3779b97f4a7c15u +
                           static_cast<uint64_t>(y) * 0xc2b2ae3d27d4eb4fu +
                           static_cast<uint64_t>(level) * 0x165667b19e3779f9u;
    return (mixed ^ mixed >> 32) * 0xd6e8feb86659fd93u >> shift_;
  }

  template <bool kBest>
  FD_SIMD_INLINE int64_t in_bucket(size_t bucket, const Box<T>& box, T box_area) const {
    int64_t best = kNone;
    for (int32_t row = last_[bucket] < 0 ? -1 : last_[bucket] / kSize; row >= 0;
         row = previous_[row]) {
      const int64_t i = rows_[row].template suppressor<kBest>(box, box_area, threshold_);
      if (i == kNone) continue;
      // Within a row ranks rise, and every row before holds better ones.
      best = ranks_[row * kSize + i];
      if (!kBest) break;
    }
    return best;
  }

  void enter(size_t bucket, const Box<T>& box, int64_t rank) {
    int32_t place = last_[bucket] + 1;
    if (place % kSize == 0) {  // none yet, or the row is full
      const int32_t before = place == 0 ? -1 : (place - 1) / kSize;
      place = static_cast<int32_t>(rows_.size()) * kSize;
      rows_.emplace_back();
      previous_.push_back(before);
      ranks_.resize(ranks_.size() + kSize);
    }
    rows_[place / kSize].set(place % kSize, box);
    ranks_[place] = rank;
    last_[bucket] = place;
  }

  T threshold_, cut_ = 0;
  int floor_ = 0, shift_, lowest_ = kLevels, highest_ = -1;
  bool present_[kLevels] = {};
  std::vector<int32_t> last_;  // by bucket: the last place taken, row * kSize + lane
  std::vector<Row> rows_;
  std::vector<int32_t> previous_;  // by row: the one that filled up before
  std::vector<int32_t> ranks_;
};

}  // namespace focaldet
