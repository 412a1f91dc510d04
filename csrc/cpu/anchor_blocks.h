// Anchors in blocks of 64 as a structure of arrays, and what is known of a block before it is
// loaded: its hull, which no box that overlaps one of its anchors can miss, and bounds of their
// areas.
//
// Anchors of a grid are not stored: the x of a level's rows are all alike, and so are the y of the
// cell anchors but for a shift. That is 16 bytes for each anchor of one row.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "../anchor_grid.h"
#include "simd.h"

namespace focaldet {

constexpr int64_t kAnchorBlock = 64;

struct AnchorBlock {
  float x1[kAnchorBlock], y1[kAnchorBlock], x2[kAnchorBlock], y2[kAnchorBlock], areas[kAnchorBlock];

  Box<float> box(int64_t i) const { return {x1[i], y1[i], x2[i], y2[i]}; }

  // Ends the block after n anchors; NaN overlaps nothing.
  void finish(int64_t n) {
    std::fill(x1 + n, x1 + kAnchorBlock, std::numeric_limits<float>::quiet_NaN());
    vectorised([&]() FD_SIMD_LAMBDA {
      for (int64_t i = 0; i < kAnchorBlock; ++i) areas[i] = area(box(i));
    });
  }
};

struct Extent {
  Box<float> hull{kInfinity, kInfinity, -kInfinity, -kInfinity};
  float least_area = kInfinity, largest_area = 0;  // of the anchors that are no empty boxes

  // Not lower than the IoU of any anchor with this box, but for roundings; not above 0, or NaN,
  // where none can overlap it. With i the intersection, g and a the areas, i / (g + a - i) grows
  // with i, which is at most g, a, and what the hull leaves, and falls with a.
  float iou_bound(const Box<float>& gt, float gt_area) const {
    const float inter = min_(min_(intersection(gt, hull), gt_area), largest_area);
    return inter / (gt_area + max_(least_area, inter) - inter);
  }

  void add(const Box<float>& box, float slack = 0) {
    hull = {min_(hull.x1, box.x1), min_(hull.y1, box.y1), max_(hull.x2, box.x2),
            max_(hull.y2, box.y2)};  // a NaN stays outside
    const float width = box.x2 - box.x1, height = box.y2 - box.y1;
    if (!(width > 0 && height > 0)) return;
    least_area = min_(least_area, max_(width - slack, 0.0f) * max_(height - slack, 0.0f));
    largest_area = max_(largest_area, (width + slack) * (height + slack));
  }

 private:
  static constexpr float kInfinity = std::numeric_limits<float>::infinity();
};

// Rows of a tensor, or a grid.
class AnchorBlocks {
 public:
  AnchorBlocks(const float* rows, int64_t n, const AnchorTable& table)
      : rows_(rows), anchors_(rows != nullptr ? n : table.count()) {
    if (rows != nullptr) {
      blocks_ = (n + kAnchorBlock - 1) / kAnchorBlock;
      return;
    }
    for (const AnchorTable::Level& level : table.levels) {
      if (level.grid.height > 0 && level.grid.width > 0 && table.cells > 0) {
        levels_.emplace_back(level, table.cells, blocks_);
        blocks_ = levels_.back().first_block + levels_.back().blocks();
      }
    }
  }

  int64_t anchors() const { return anchors_; }
  int64_t blocks() const { return blocks_; }

  // Anchors [first, first + n) make block b.
  struct Span {
    int64_t first, n;
  };
  Span span(int64_t b) const {
    if (rows_ != nullptr) return part(b, 0, anchors_);
    const Level& level = level_of(b);
    return part(b - level.first_block, level.first, level.rows * level.row);
  }

  Extent extent(int64_t b) const {
    const auto [first, n] = span(b);
    if (rows_ == nullptr) return level_of(b).extent(first, n);
    Extent extent;
    for (int64_t i = first; i < first + n; ++i) extent.add(row(i));
    return extent;
  }

  // The IoU of some anchor close to the box, if there is one: a start for finding the largest.
  float near_iou(const Box<float>& gt) const {
    float best = 0;
    for (const Level& level : levels_) best = max_(best, level.near_iou(gt));
    return best;
  }

  void load(int64_t b, AnchorBlock& block) const {
    const auto [first, n] = span(b);
    if (rows_ == nullptr) {
      level_of(b).load(first, n, block);
    } else {
      for (int64_t i = 0; i < n; ++i) {
        const Box<float> box = row(first + i);
        block.x1[i] = box.x1;
        block.y1[i] = box.y1;
        block.x2[i] = box.x2;
        block.y2[i] = box.y2;
      }
    }
    block.finish(n);
  }

 private:
  struct Level {
    AnchorLevel grid;
    int64_t first, first_block;
    int64_t rows, row, cells;  // anchors in a row of positions, anchors per position
    std::vector<float> x1, x2, cell_y1, cell_y2;
    Extent cell;  // of the cell anchors

    Level(const AnchorTable::Level& level, int64_t per_position, int64_t before)
        : grid(level.grid),
          first(level.first),
          first_block(before),
          rows(grid.height),
          row(grid.width * per_position),
          cells(per_position) {
      for (std::vector<float>* each : {&x1, &x2, &cell_y1, &cell_y2}) each->resize(row);
      // The sides of an anchor are rounded after the shift: its area may differ from the cell's.
      const float reach = std::fabs(shift_x(0)) + std::fabs(shift_x(grid.width)) +
                          std::fabs(shift_y(0)) + std::fabs(shift_y(grid.height));
      for (int64_t a = 0; a < cells; ++a) {
        const float* c = level.cell(a);
        const float farthest = reach + std::fabs(c[0]) + std::fabs(c[1]) + std::fabs(c[2]);
        cell.add({c[0], c[1], c[2], c[3]}, (farthest + std::fabs(c[3])) * 0x1p-22f);
      }
      for (int64_t x = 0, i = 0; x < grid.width; ++x) {
        for (int64_t a = 0; a < cells; ++a, ++i) {
          const float* c = level.cell(a);
          x1[i] = c[0] + shift_x(x);
          cell_y1[i] = c[1];
          x2[i] = c[2] + shift_x(x);
          cell_y2[i] = c[3];
        }
      }
    }

    float shift_x(int64_t x) const { return anchor_shift(x, grid.offset, grid.stride_x); }
    float shift_y(int64_t y) const { return anchor_shift(y, grid.offset, grid.stride_y); }
    int64_t blocks() const { return (rows * row + kAnchorBlock - 1) / kAnchorBlock; }

    // Rounding keeps order, so that the hull's sides bound the anchors' exactly.
    Extent extent(int64_t begin, int64_t n) const {
      const int64_t from = begin - first, to = from + n - 1;
      const int64_t top = from / row, bottom = to / row;
      const int64_t left = top == bottom ? (from - top * row) / cells : 0;
      const int64_t right = top == bottom ? (to - top * row) / cells : grid.width - 1;
      Extent extent = cell;
      extent.hull = {cell.hull.x1 + shift_x(left), cell.hull.y1 + shift_y(top),
                     cell.hull.x2 + shift_x(right), cell.hull.y2 + shift_y(bottom)};
      return extent;
    }

    // The cell anchors at the position closest to the middle of the box.
    float near_iou(const Box<float>& gt) const {
      const auto closest = [&](float middle, float stride, int64_t size) {
        const float position = middle / stride - grid.offset + 0.5f;
        const float last = static_cast<float>(size - 1);                      // rounded up, perhaps
        const float nearest = position > 0.0f ? min_(position, last) : 0.0f;  // 0 for NaN
        return std::min(static_cast<int64_t>(nearest), size - 1);
      };
      const int64_t x = closest(0.5f * (gt.x1 + gt.x2), grid.stride_x, grid.width);
      const float shift = shift_y(closest(0.5f * (gt.y1 + gt.y2), grid.stride_y, grid.height));
      float best = 0;
      for (int64_t i = x * cells; i < (x + 1) * cells; ++i) {
        const Box<float> anchor{x1[i], cell_y1[i] + shift, x2[i], cell_y2[i] + shift};
        best = max_(best, iou(gt, area(gt), anchor, area(anchor)));
      }
      return best;
    }

    void load(int64_t from, int64_t n, AnchorBlock& block) const {
      int64_t y = (from - first) / row, in_row = (from - first) % row;
      for (int64_t i = 0; i < n; ++y, in_row = 0) {
        const int64_t here = std::min(n - i, row - in_row);
        const float shift = shift_y(y);
        vectorised([&]() FD_SIMD_LAMBDA {
          for (int64_t j = 0; j < here; ++j) {
            block.x1[i + j] = x1[in_row + j];
            block.x2[i + j] = x2[in_row + j];
            block.y1[i + j] = cell_y1[in_row + j] + shift;
            block.y2[i + j] = cell_y2[in_row + j] + shift;
          }
        });
        i += here;
      }
    }
  };

  static Span part(int64_t b, int64_t first, int64_t n) {
    return {first + b * kAnchorBlock, std::min(kAnchorBlock, n - b * kAnchorBlock)};
  }

  const Level& level_of(int64_t b) const {
    size_t l = levels_.size() - 1;
    while (levels_[l].first_block > b) --l;
    return levels_[l];
  }

  Box<float> row(int64_t i) const {
    return {rows_[4 * i], rows_[4 * i + 1], rows_[4 * i + 2], rows_[4 * i + 3]};
  }

  const float* rows_;
  int64_t anchors_, blocks_ = 0;
  std::vector<Level> levels_;
};

}  // namespace focaldet
