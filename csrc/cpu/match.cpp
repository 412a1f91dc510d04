// Anchors to ground truth on the CPU: streams over blocks of anchors, never an IoU matrix.
//
// Pass 1 gives each anchor its best box and each box its best IoU (a maximum over threads' maxima,
// so the schedule cannot change it). Pass 2 lets the anchors that reach a box's best IoU be matched
// below the thresholds. A pair is evaluated only where the box reaches into the hull of the
// anchor's block, and their areas allow an IoU that matters. Beside the result, memory of
// O(boxes), and of a row of anchors for each level of a grid.
#include "match.h"

#include <algorithm>
#include <mutex>
#include <vector>

#include "anchor_blocks.h"

namespace focaldet {
namespace {

constexpr int32_t kBackground = -1, kBetween = -2;

// All ground truth, and the rows [split[i], split[i + 1]) of each image.
struct Truth {
  const Box<float>* boxes;
  const int64_t* split;
  int64_t images;
};

constexpr int64_t kGroup = 16;  // blocks that are sifted together first

// A box of an image that may overlap anchors of a block, and by how much at most.
struct Near {
  int64_t t;
  float bound;
};

// visit(image, span, near) for every block of the groups [begin, end), every image, and its boxes
// that reach into the block, in order.
template <class Visit>
void for_each_block(const AnchorBlocks& anchors, const Truth& truth, bool everything, int64_t begin,
                    int64_t end, Visit&& visit) {
  std::vector<int64_t> near_group;
  std::vector<Near> near;
  Extent blocks[kGroup], whole;
  const auto meets = [&](const Box<float>& hull, const Box<float>& gt) {
    return (gt.x1 < hull.x2) & (gt.x2 > hull.x1) & (gt.y1 < hull.y2) & (gt.y2 > hull.y1);
  };
  for (int64_t group = begin; group < end; ++group) {
    const int64_t b = group * kGroup, count = std::min(kGroup, anchors.blocks() - b);
    whole = Extent();
    for (int64_t i = 0; i < count; ++i) {
      blocks[i] = anchors.extent(b + i);
      whole.add(blocks[i].hull);
    }
    for (int64_t image = 0; image < truth.images; ++image) {
      near_group.clear();
      for (int64_t t = truth.split[image]; t < truth.split[image + 1]; ++t) {
        if (meets(whole.hull, truth.boxes[t]) || everything) near_group.push_back(t);
      }
      for (int64_t i = 0; i < count; ++i) {
        near.clear();
        for (const int64_t t : near_group) {
          const Box<float>& gt = truth.boxes[t];
          if (!meets(blocks[i].hull, gt) && !everything) continue;
          near.push_back({t, 1.0001f * blocks[i].iou_bound(gt, area(gt))});
        }
        visit(image, b + i, near);
      }
    }
  }
}

// IoU of a box with every anchor of a block, the best box of each anchor (the first of equals), and
// the largest IoU of the box.
struct alignas(64) Best {
  float with[kAnchorBlock], overlap[kAnchorBlock];
  int32_t row[kAnchorBlock];

  void reset() {
    std::fill(overlap, overlap + kAnchorBlock, -1.0f);
    std::fill(row, row + kAnchorBlock, kBackground);
  }

  float meet(const AnchorBlock& block, const Box<float>& gt, int32_t t) {
    const float gt_area = area(gt);
    float largest[16] = {};
    vectorised([&]() FD_SIMD_LAMBDA {
      for (int64_t i = 0; i < kAnchorBlock; ++i) {
        with[i] = iou(gt, gt_area, block.box(i), block.areas[i]);
      }
      for (int64_t i = 0; i < kAnchorBlock; ++i) {
        const bool better = with[i] > overlap[i];
        overlap[i] = better ? with[i] : overlap[i];
        row[i] = better ? t : row[i];
      }
      for (int64_t i = 0; i < kAnchorBlock; i += 16) {
        for (int64_t lane = 0; lane < 16; ++lane) {
          largest[lane] = max_(largest[lane], with[i + lane]);
        }
      }
      for (int64_t half = 8; half > 0; half /= 2) {
        for (int64_t lane = 0; lane < half; ++lane) {
          largest[lane] = max_(largest[lane], largest[lane + half]);
        }
      }
    });
    return largest[0];
  }
};

void best_boxes(const AnchorBlocks& anchors, const Truth& truth, const MatchRules& rules,
                std::vector<float>& best_of_gt, int32_t* out) {
  std::mutex merging;
  const int64_t groups = (anchors.blocks() + kGroup - 1) / kGroup;
  // An IoU of 0 decides nothing, but where it is not below bg_iou.
  const bool everything = !(rules.bg_iou > 0.0f);
  torch::stable::parallel_for(0, groups, 4, [&](int64_t begin, int64_t end) {
    AnchorBlock block;
    Best best;
    int64_t loaded = -1;
    std::vector<float> best_here;
    {
      const std::lock_guard<std::mutex> lock(merging);
      best_here = best_of_gt;
    }
    const auto visit = [&](int64_t image, int64_t b, const std::vector<Near>& near) {
      const auto [first, n] = anchors.span(b);
      int32_t* match = out + image * anchors.anchors() + first;
      bool any = false;
      for (const auto& [t, bound] : near) {
        // Neither above the background nor the best of the box: of no consequence.
        if (!(bound >= rules.bg_iou || bound >= best_here[t] || everything)) continue;
        if (loaded != b) anchors.load(b, block);
        loaded = b;
        if (!any) best.reset();
        any = true;
        const int32_t row = static_cast<int32_t>(t - truth.split[image]);
        best_here[t] = max_(best_here[t], best.meet(block, truth.boxes[t], row));
      }
      if (!any) return static_cast<void>(std::fill(match, match + n, kBackground));
      for (int64_t i = 0; i < n; ++i) {
        const int32_t strong = best.overlap[i] >= rules.fg_iou ? best.row[i] : kBetween;
        const bool background = (best.overlap[i] < rules.bg_iou) | (best.row[i] < 0);
        match[i] = background ? kBackground : strong;
      }
    };
    for_each_block(anchors, truth, everything, begin, end, visit);
    const std::lock_guard<std::mutex> lock(merging);
    for (size_t t = 0; t < best_of_gt.size(); ++t) {
      best_of_gt[t] = max_(best_of_gt[t], best_here[t]);
    }
  });
}

// Only few blocks hold an anchor that may be the best of a box. A box that overlaps no anchor
// claims none.
void claim(const AnchorBlocks& anchors, const Truth& truth, const MatchRules& rules,
           const std::vector<float>& best_of_gt, int32_t* out) {
  const int64_t groups = (anchors.blocks() + kGroup - 1) / kGroup;
  torch::stable::parallel_for(0, groups, 4, [&](int64_t begin, int64_t end) {
    AnchorBlock block;
    Best best;
    best.reset();
    int32_t claimed[kAnchorBlock];
    const auto visit = [&](int64_t image, int64_t b, const std::vector<Near>& near) {
      const auto row_of = [&](const Near& each) {
        return static_cast<int32_t>(each.t - truth.split[image]);
      };
      bool loaded = false, any = false;
      for (const Near& each : near) {
        const float most = best_of_gt[each.t];
        if (!(most > 0.0f && each.bound >= most)) continue;
        if (!loaded) anchors.load(b, block);
        loaded = true;
        if (best.meet(block, truth.boxes[each.t], row_of(each)) != most) continue;
        if (!any) std::fill(claimed, claimed + kAnchorBlock, kBackground);
        any = true;
        for (int64_t i = 0; i < kAnchorBlock; ++i) {
          if (best.with[i] == most) claimed[i] = row_of(each);  // the last box stays
        }
      }
      if (!any) return;
      if (rules.low_quality == LowQuality::torchvision) {
        best.reset();
        for (const Near& each : near) best.meet(block, truth.boxes[each.t], row_of(each));
      }
      const auto [first, n] = anchors.span(b);
      int32_t* match = out + image * anchors.anchors() + first;
      for (int64_t i = 0; i < n; ++i) {
        if (claimed[i] < 0) continue;
        match[i] = rules.low_quality == LowQuality::mmdet ? claimed[i] : best.row[i];
      }
    };
    for_each_block(anchors, truth, false, begin, end, visit);
  });
}

Tensor match_anchors(const std::optional<Tensor>& anchors, const std::vector<double>& cell_anchors,
                     const std::vector<int64_t>& feature_sizes, const std::vector<int64_t>& strides,
                     double offset, const Tensor& gt_boxes, const Tensor& gt_splits, double fg_iou,
                     double bg_iou, const std::string& low_quality) {
  const AnchorTable table(cell_anchors, feature_sizes, strides, offset);
  return match(
      table, anchors, gt_boxes, gt_splits,
      {static_cast<float>(fg_iou), static_cast<float>(bg_iou), low_quality_rule(low_quality)});
}

Tensor count_foreground(const std::optional<Tensor>& anchors,
                        const std::vector<double>& cell_anchors,
                        const std::vector<int64_t>& feature_sizes,
                        const std::vector<int64_t>& strides, double offset, const Tensor& gt_boxes,
                        const Tensor& gt_splits, double fg_iou, double bg_iou,
                        const std::string& low_quality) {
  const Tensor matches = match_anchors(anchors, cell_anchors, feature_sizes, strides, offset,
                                       gt_boxes, gt_splits, fg_iou, bg_iou, low_quality);
  const int64_t images = matches.size(0), count = matches.size(1);
  Tensor counts = empty({images}, ScalarType::Long, matches);
  const int32_t* match = matches.const_data_ptr<int32_t>();
  for (int64_t image = 0; image < images; ++image) {
    counts.mutable_data_ptr<int64_t>()[image] = std::count_if(
        match + image * count, match + (image + 1) * count, [](int32_t row) { return row >= 0; });
  }
  return counts;
}

}  // namespace

Tensor match(const AnchorTable& table, const std::optional<Tensor>& anchors, const Tensor& gt_boxes,
             const Tensor& gt_splits, const MatchRules& rules) {
  check_ground_truth(gt_boxes, gt_splits, "match_anchors");
  std::optional<Tensor> rows;
  if (anchors) {
    FD_CHECK(anchors->dim() == 2 && anchors->size(1) == 4, "match_anchors: anchors must be [n, 4]");
    rows = dense(*anchors, ScalarType::Float);
  }
  const AnchorBlocks blocks(rows ? rows->const_data_ptr<float>() : nullptr,
                            rows ? rows->size(0) : 0, table);
  const Tensor boxes = dense(gt_boxes, ScalarType::Float), splits = dense(gt_splits);
  const Truth truth{reinterpret_cast<const Box<float>*>(boxes.const_data_ptr<float>()),
                    splits.const_data_ptr<int64_t>(), splits.size(0) - 1};
  for (int64_t image = 0; image < truth.images; ++image) {
    const int64_t from = truth.split[image], to = truth.split[image + 1];
    FD_CHECK(0 <= from && from <= to && to <= boxes.size(0),
             "match_anchors: gt_splits must ascend, to at most the number of boxes");
  }
  Tensor matches = empty({truth.images, blocks.anchors()}, ScalarType::Int, gt_boxes);
  int32_t* out = matches.mutable_data_ptr<int32_t>();
  std::vector<float> best_of_gt(boxes.size(0));
  for (int64_t t = 0; t < boxes.size(0); ++t) best_of_gt[t] = blocks.near_iou(truth.boxes[t]);
  best_boxes(blocks, truth, rules, best_of_gt, out);
  if (rules.low_quality != LowQuality::none) claim(blocks, truth, rules, best_of_gt, out);
  return matches;
}

STABLE_TORCH_LIBRARY_IMPL(focaldet, CPU, m) {
  m.impl("match_anchors", TORCH_BOX(&match_anchors));
  m.impl("count_foreground", TORCH_BOX(&count_foreground));
}

}  // namespace focaldet
