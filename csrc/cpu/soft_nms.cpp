// Soft-NMS (Bodla et al. 2017) on the CPU, exact: every pick is the best box of all that are left,
// and every decay is applied in the order of the picks.
//
// The boxes of a group lie in blocks of 64 along a Z-order curve, so that a block covers a small
// part of the image. Each pick looks at the best box of every block, tests the block's hull, and
// decays the boxes of the few blocks that it touches: O(picks * boxes / 64) and the overlaps.
// Groups run in parallel.
#include "../math/soft_nms.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "../arguments.h"
#include "radix_sort.h"
#include "simd.h"

namespace focaldet {
namespace {

template <class T>
struct Settings {
  T threshold, sigma, min_score;
  SoftNms method;
};

template <class T>
struct Pick {
  T score;
  int64_t row;
  bool before(const Pick& other) const {
    return score != other.score ? score > other.score : row < other.row;
  }
};

// Scores are at least 0; what is out has less.
template <class T>
constexpr T kOut = T(-1);

template <class T>
struct alignas(64) Block {
  static constexpr int kSize = 64;
  T x1[kSize], y1[kSize], x2[kSize], y2[kSize], scores[kSize];
  int64_t rows[kSize];
  Box<T> hull;
  Pick<T> best;

  // Of candidates [first, last).
  Block(const Box<T>* boxes, const T* all_scores, const int64_t* first, const int64_t* last) {
    constexpr T kInfinity = std::numeric_limits<T>::infinity();
    hull = {kInfinity, kInfinity, -kInfinity, -kInfinity};
    for (int i = 0; i < kSize; ++i) {
      const bool used = first + i < last;
      const int64_t row = used ? first[i] : 0;
      const Box<T> box = used ? boxes[row] : Box<T>{0, 0, 0, 0};
      x1[i] = box.x1;
      y1[i] = box.y1;
      x2[i] = box.x2;
      y2[i] = box.y2;
      scores[i] = used ? all_scores[row] + T(0) : kOut<T>;
      rows[i] = row;
      if (used) {
        hull = {min_(hull.x1, box.x1), min_(hull.y1, box.y1), max_(hull.x2, box.x2),
                max_(hull.y2, box.y2)};
      }
    }
    find_best();
  }

  void find_best() {
    best = {kOut<T>, 0};
    for (int i = 0; i < kSize; ++i) {
      const Pick<T> pick{scores[i], rows[i]};
      if (pick.score >= T(0) && (best.score < T(0) || pick.before(best))) best = pick;
    }
  }

  void drop(int64_t row) {
    for (int i = 0; i < kSize; ++i) {
      if (rows[i] == row) scores[i] = kOut<T>;
    }
    find_best();
  }

  void decay(const Box<T>& box, const Settings<T>& settings) {
    // An overlap takes an intersection, which takes one with the hull.
    if (!(intersection(hull, box) > T(0))) return;
    const T box_area = area(box);
    int32_t touched = 0;
    vectorised([&]() FD_SIMD_LAMBDA {
      for (int i = 0; i < kSize; ++i) {
        const Box<T> own{x1[i], y1[i], x2[i], y2[i]};
        const T overlap = soft_nms_overlap(box, box_area, own, area(own));
        const T decayed = scores[i] * soft_nms_weight(overlap, settings.threshold, settings.sigma,
                                                      settings.method);
        const bool in = (scores[i] >= T(0)) & (decayed >= settings.min_score);
        touched |= overlap > T(0);
        scores[i] = in ? decayed : kOut<T>;
      }
    });
    if (touched != 0) find_best();
  }
};

// Places on the curve: 16 bits of each coordinate of the middle, interleaved.
template <class T>
uint64_t z_order(const Box<T>& box, const Box<T>& extent) {
  const auto spread = [](T middle, T low, T high) {
    const T unit = (middle - low) / (high - low);
    uint64_t bits = unit > T(0) ? static_cast<uint64_t>(min_(unit, T(1)) * T(65535)) : 0;
    bits = (bits | bits << 8) & 0x00ff00ffu;
    bits = (bits | bits << 4) & 0x0f0f0f0fu;
    bits = (bits | bits << 2) & 0x33333333u;
    return (bits | bits << 1) & 0x55555555u;
  };
  return spread(T(0.5) * box.x1 + T(0.5) * box.x2, extent.x1, extent.x2) |
         spread(T(0.5) * box.y1 + T(0.5) * box.y2, extent.y1, extent.y2) << 1;
}

// The picks of one group, in order.
template <class T>
std::vector<Pick<T>> soft_nms_of(std::vector<int64_t> rows, const Box<T>* boxes, const T* scores,
                                 const Settings<T>& settings) {
  constexpr T kInfinity = std::numeric_limits<T>::infinity();
  Box<T> extent{kInfinity, kInfinity, -kInfinity, -kInfinity};
  for (const int64_t row : rows) {
    const Box<T>& box = boxes[row];
    extent = {min_(extent.x1, box.x1), min_(extent.y1, box.y1), max_(extent.x2, box.x2),
              max_(extent.y2, box.y2)};
  }
  stable_sort_by(rows, [&](int64_t row) { return z_order(boxes[row], extent); });
  std::vector<Block<T>> blocks;
  for (size_t first = 0; first < rows.size(); first += Block<T>::kSize) {
    blocks.emplace_back(boxes, scores, rows.data() + first, rows.data() + rows.size());
  }
  std::vector<Pick<T>> picks;
  while (true) {
    const auto best =
        std::min_element(blocks.begin(), blocks.end(),
                         [](const auto& a, const auto& b) { return a.best.before(b.best); });
    if (best == blocks.end() || best->best.score < T(0)) return picks;
    const Pick<T> pick = best->best;
    picks.push_back(pick);
    best->drop(pick.row);
    for (Block<T>& block : blocks) block.decay(boxes[pick.row], settings);
  }
}

template <class T>
std::vector<Pick<T>> soft_nms_by_group(const Box<T>* boxes, const T* scores, const int64_t* groups,
                                       int64_t n, const Settings<T>& settings) {
  std::vector<int64_t> rows;
  for (int64_t i = 0; i < n; ++i) {
    if (scores[i] >= settings.min_score && !has_nan(boxes[i])) rows.push_back(i);
  }
  std::vector<int64_t> starts{0};
  if (groups != nullptr) {
    stable_sort_by(rows, [&](int64_t row) { return static_cast<uint64_t>(groups[row]); });
    for (size_t i = 1; i < rows.size(); ++i) {
      if (groups[rows[i]] != groups[rows[i - 1]]) starts.push_back(static_cast<int64_t>(i));
    }
  }
  starts.push_back(static_cast<int64_t>(rows.size()));
  const int64_t count = static_cast<int64_t>(starts.size()) - 1;
  std::vector<std::vector<Pick<T>>> by_group(count);
  torch::stable::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t g = begin; g < end; ++g) {
      by_group[g] = soft_nms_of<T>({rows.begin() + starts[g], rows.begin() + starts[g + 1]}, boxes,
                                   scores, settings);
    }
  });
  std::vector<Pick<T>> picks;
  for (const auto& some : by_group) picks.insert(picks.end(), some.begin(), some.end());
  // Scores only fall, so the picks of a group are in this order already.
  std::sort(picks.begin(), picks.end(),
            [](const Pick<T>& a, const Pick<T>& b) { return a.before(b); });
  return picks;
}

std::tuple<Tensor, Tensor> soft_nms(const Tensor& boxes, const Tensor& scores,
                                    const std::optional<Tensor>& idxs, double iou_threshold,
                                    double sigma, double min_score, const std::string& method) {
  check_soft_nms(boxes, scores, idxs, iou_threshold, sigma, min_score);
  const SoftNms kind = soft_nms_method(method);
  const std::optional<Tensor> groups = dense(idxs, ScalarType::Long);
  return in_type_of(boxes, scores, [&](auto tag, ScalarType dtype) -> std::tuple<Tensor, Tensor> {
    using T = typename decltype(tag)::type;
    const Tensor b = dense(boxes, dtype), s = dense(scores, dtype);
    const auto picks = soft_nms_by_group<T>(
        reinterpret_cast<const Box<T>*>(b.template const_data_ptr<T>()),
        s.template const_data_ptr<T>(), groups ? groups->const_data_ptr<int64_t>() : nullptr,
        b.size(0),
        {static_cast<T>(iou_threshold), static_cast<T>(sigma), static_cast<T>(min_score), kind});
    const int64_t count = static_cast<int64_t>(picks.size());
    Tensor keep = empty({count}, ScalarType::Long, boxes), decayed = empty({count}, dtype, boxes);
    for (int64_t i = 0; i < count; ++i) {
      keep.mutable_data_ptr<int64_t>()[i] = picks[i].row;
      decayed.template mutable_data_ptr<T>()[i] = picks[i].score;
    }
    return {keep, decayed};
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(focaldet, CPU, m) { m.impl("soft_nms", TORCH_BOX(&soft_nms)); }

}  // namespace focaldet
