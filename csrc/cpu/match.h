// Matching as the losses use it.
#pragma once

#include "../anchor_grid.h"
#include "../arguments.h"

namespace focaldet {

struct MatchRules {
  float fg_iou, bg_iou;
  LowQuality low_quality;
};

// int32 [B, n], see match_anchors; n anchors of the table, or the rows of a tensor.
Tensor match(const AnchorTable& table, const std::optional<Tensor>& anchors, const Tensor& gt_boxes,
             const Tensor& gt_splits, const MatchRules& rules);

}  // namespace focaldet
