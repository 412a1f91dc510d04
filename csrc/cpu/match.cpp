// Anchors to ground truth on the CPU: streams over blocks of anchors, never an IoU matrix.
//
// Pass 1 gives each anchor its best box and each box its best IoU (a maximum over threads' maxima,
// so the schedule cannot change it); pass 2 applies the thresholds, and lets the anchors that reach
// a box's best IoU be matched below them. Two IoU evaluations per pair and O(anchors + boxes)
// memory; anchors of a grid are computed block by block.
#include <algorithm>
#include <mutex>
#include <string>
#include <vector>

#include "../anchor_grid.h"
#include "../stable.h"
#include "simd.h"

namespace focaldet {
namespace {

constexpr int64_t kBlock = 512;  // anchors
constexpr int32_t kBackground = -1, kBetween = -2;

enum class LowQuality { none, torchvision, mmdet };

LowQuality parse(const std::string& name) {
  if (name == "none") return LowQuality::none;
  if (name == "torchvision") return LowQuality::torchvision;
  FD_CHECK(name == "mmdet", "match_anchors: low_quality is none, torchvision or mmdet");
  return LowQuality::mmdet;
}

// A block of anchors as a structure of arrays.
struct AnchorBlock {
  float x1[kBlock], y1[kBlock], x2[kBlock], y2[kBlock], areas[kBlock];

  Box<float> box(int64_t i) const { return {x1[i], y1[i], x2[i], y2[i]}; }
  void set(int64_t i, const Box<float>& b) {
    x1[i] = b.x1;
    y1[i] = b.y1;
    x2[i] = b.x2;
    y2[i] = b.y2;
    areas[i] = area(b);
  }
};

// Where anchors come from: rows of a tensor, or indices into a grid.
class AnchorSource {
 public:
  AnchorSource(const float* rows, int64_t n, const AnchorTable& table)
      : rows_(rows), count_(rows != nullptr ? n : table.count()), table_(table) {}

  int64_t count() const { return count_; }

  void load(int64_t first, int64_t n, AnchorBlock& block) const {
    if (rows_ != nullptr) {
      for (int64_t i = 0; i < n; ++i) {
        const float* row = rows_ + 4 * (first + i);
        block.set(i, {row[0], row[1], row[2], row[3]});
      }
      return;
    }
    size_t l = table_.levels.size() - 1;
    while (table_.levels[l].first > first) --l;
    for (int64_t i = 0; i < n;) {
      const AnchorTable::Level& level = table_.levels[l];
      int64_t index = first + i - level.first;
      const int64_t size = level.grid.height * level.grid.width * table_.cells;
      if (index >= size) {
        ++l;
        continue;
      }
      int64_t a = index % table_.cells, x = index / table_.cells % level.grid.width;
      int64_t y = index / table_.cells / level.grid.width;
      for (; i < n && index < size; ++i, ++index) {
        block.set(i, anchor_at(level.grid, y, x, level.cell(a)));
        if (++a == table_.cells) {
          a = 0;
          if (++x == level.grid.width) {
            x = 0;
            ++y;
          }
        }
      }
    }
  }

 private:
  const float* rows_;
  int64_t count_;
  const AnchorTable& table_;
};

// IoU of one box with every anchor of a block.
void block_iou(const AnchorBlock& block, int64_t n, const Box<float>& gt, float gt_area,
               float* result) {
  vectorised([&]() FD_SIMD_LAMBDA {
    for (int64_t i = 0; i < n; ++i) result[i] = iou(gt, gt_area, block.box(i), block.areas[i]);
  });
}

float largest(const float* values, int64_t n) {
  float lanes[16] = {};
  vectorised([&]() FD_SIMD_LAMBDA {
    for (int64_t i = 0; i + 16 <= n; i += 16) {
      for (int64_t lane = 0; lane < 16; ++lane) {
        lanes[lane] = max_(lanes[lane], values[i + lane]);
      }
    }
  });
  for (int64_t i = n / 16 * 16; i < n; ++i) lanes[0] = max_(lanes[0], values[i]);
  return *std::max_element(lanes, lanes + 16);
}

struct Rules {
  float fg_iou, bg_iou;
  LowQuality low_quality;
};

void match_image(const AnchorSource& anchors, const Box<float>* gts, int64_t num_gts,
                 const Rules& rules, int32_t* out) {
  const int64_t total = anchors.count(), blocks = (total + kBlock - 1) / kBlock;
  std::vector<float> gt_areas(num_gts), best_of_gt(num_gts, 0.0f);
  for (int64_t t = 0; t < num_gts; ++t) gt_areas[t] = area(gts[t]);
  std::vector<float> best_iou(total, -1.0f);
  std::fill(out, out + total, kBackground);
  std::mutex merging;

  torch::stable::parallel_for(0, blocks, 8, [&](int64_t begin, int64_t end) {
    AnchorBlock block;
    float overlap[kBlock];
    std::vector<float> best_here(num_gts, 0.0f);
    for (int64_t b = begin; b < end; ++b) {
      const int64_t first = b * kBlock, n = std::min(kBlock, total - first);
      float* best = best_iou.data() + first;
      int32_t* best_gt = out + first;
      anchors.load(first, n, block);
      for (int64_t t = 0; t < num_gts; ++t) {
        block_iou(block, n, gts[t], gt_areas[t], overlap);
        vectorised([&]() FD_SIMD_LAMBDA {
          for (int64_t i = 0; i < n; ++i) {
            const bool better = overlap[i] > best[i];  // the first of equals stays
            best[i] = better ? overlap[i] : best[i];
            best_gt[i] = better ? static_cast<int32_t>(t) : best_gt[i];
          }
        });
        best_here[t] = max_(best_here[t], largest(overlap, n));
      }
    }
    const std::lock_guard<std::mutex> lock(merging);
    for (int64_t t = 0; t < num_gts; ++t) best_of_gt[t] = max_(best_of_gt[t], best_here[t]);
  });

  torch::stable::parallel_for(0, blocks, 8, [&](int64_t begin, int64_t end) {
    AnchorBlock block;
    float overlap[kBlock];
    int32_t claimed[kBlock];
    for (int64_t b = begin; b < end; ++b) {
      const int64_t first = b * kBlock, n = std::min(kBlock, total - first);
      std::fill(claimed, claimed + n, kBackground);
      if (rules.low_quality != LowQuality::none) {
        anchors.load(first, n, block);
        for (int64_t t = 0; t < num_gts; ++t) {
          const float most = best_of_gt[t];
          if (!(most > 0.0f)) continue;  // a box that overlaps no anchor claims none
          block_iou(block, n, gts[t], gt_areas[t], overlap);
          vectorised([&]() FD_SIMD_LAMBDA {
            for (int64_t i = 0; i < n; ++i) {
              claimed[i] = overlap[i] == most ? static_cast<int32_t>(t) : claimed[i];
            }
          });
        }
      }
      for (int64_t i = 0; i < n; ++i) {
        const float best = best_iou[first + i];
        int32_t& match = out[first + i];
        if (claimed[i] >= 0) {
          match = rules.low_quality == LowQuality::mmdet ? claimed[i] : match;
        } else if (best < rules.bg_iou || match < 0) {
          match = kBackground;
        } else if (!(best >= rules.fg_iou)) {
          match = kBetween;
        }
      }
    }
  });
}

Tensor match_anchors(const std::optional<Tensor>& anchors, const std::vector<double>& cell_anchors,
                     const std::vector<int64_t>& feature_sizes, const std::vector<int64_t>& strides,
                     double offset, const Tensor& gt_boxes, const Tensor& gt_splits, double fg_iou,
                     double bg_iou, const std::string& low_quality) {
  const Rules rules{static_cast<float>(fg_iou), static_cast<float>(bg_iou), parse(low_quality)};
  FD_CHECK(gt_boxes.dim() == 2 && gt_boxes.size(1) == 4, "match_anchors: gt_boxes must be [T, 4]");
  FD_CHECK(
      gt_splits.dim() == 1 && gt_splits.size(0) >= 1 && gt_splits.scalar_type() == ScalarType::Long,
      "match_anchors: gt_splits must be int64 [B + 1]");
  const AnchorTable table(cell_anchors, feature_sizes, strides, offset);
  std::optional<Tensor> rows;
  if (anchors) {
    FD_CHECK(anchors->dim() == 2 && anchors->size(1) == 4, "match_anchors: anchors must be [n, 4]");
    rows = dense(*anchors, ScalarType::Float);
  }
  const AnchorSource source(rows ? rows->const_data_ptr<float>() : nullptr,
                            rows ? rows->size(0) : 0, table);
  const Tensor boxes = dense(gt_boxes, ScalarType::Float), splits = dense(gt_splits);
  const auto* gts = reinterpret_cast<const Box<float>*>(boxes.const_data_ptr<float>());
  const int64_t* split = splits.const_data_ptr<int64_t>();
  const int64_t images = splits.size(0) - 1, total_boxes = boxes.size(0);

  Tensor matches = empty({images, source.count()}, ScalarType::Int, gt_boxes);
  int32_t* out = matches.mutable_data_ptr<int32_t>();
  for (int64_t image = 0; image < images; ++image) {
    const int64_t from = split[image], to = split[image + 1];
    FD_CHECK(0 <= from && from <= to && to <= total_boxes,
             "match_anchors: gt_splits must ascend from 0 to at most the number of boxes");
    match_image(source, gts + from, to - from, rules, out + image * source.count());
  }
  return matches;
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

STABLE_TORCH_LIBRARY_IMPL(focaldet, CPU, m) {
  m.impl("match_anchors", TORCH_BOX(&match_anchors));
  m.impl("count_foreground", TORCH_BOX(&count_foreground));
}

}  // namespace focaldet
