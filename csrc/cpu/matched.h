// The anchors that the losses have to look at: those that are no background, some in a thousand.
#pragma once

#include <algorithm>
#include <vector>

#include "../head_maps.h"
#include "match.h"

namespace focaldet {

// An anchor that is no background; `anchor` counts within its level.
struct Special {
  int64_t anchor;
  int32_t label;  // -1: ignored by the classification
  int64_t gt;     // row of its box; -1: between the thresholds
};
using Specials = std::vector<Special>;  // by rising anchor

// All images and levels of a batch.
class Matched {
 public:
  Matched(const LossArguments& args, const AnchorTable& table, const HeadMaps& logits)
      : table_(table), images_(logits.in[0].size(0)), foreground_(images_) {
    const Tensor matches = match(table, std::nullopt, args.gt_boxes, args.gt_splits,
                                 {static_cast<float>(args.fg_iou), static_cast<float>(args.bg_iou),
                                  low_quality_rule(args.low_quality)});
    const Tensor labels = dense(args.gt_labels, ScalarType::Long), splits = dense(args.gt_splits);
    const int64_t* label = labels.const_data_ptr<int64_t>();
    lists_.resize(images_ * levels() * cells());
    for (int64_t image = 0; image < images_; ++image) {
      const int64_t from = splits.const_data_ptr<int64_t>()[image];
      for (int64_t l = 0; l < levels(); ++l) {
        const int32_t* match =
            matches.const_data_ptr<int32_t>() + image * table.count() + table.levels[l].first;
        for (int64_t i = 0; i < positions(l) * cells(); ++i) {
          if (match[i] == -1) continue;
          const int64_t gt = match[i] < 0 ? -1 : from + match[i];
          const bool known = gt >= 0 && label[gt] >= 0 && label[gt] < logits.channels;
          list(image, l, i % cells())
              .push_back({i, known ? static_cast<int32_t>(label[gt]) : -1, gt});
          foreground_[image] += gt >= 0;
        }
      }
    }
  }

  int64_t images() const { return images_; }
  int64_t levels() const { return static_cast<int64_t>(table_.levels.size()); }
  int64_t cells() const { return table_.cells; }
  int64_t positions(int64_t l) const {
    return table_.levels[l].grid.height * table_.levels[l].grid.width;
  }
  const std::vector<int64_t>& foreground() const { return foreground_; }

  Specials& list(int64_t image, int64_t l, int64_t a) {
    return lists_[(image * levels() + l) * cells() + a];
  }
  const Specials& list(int64_t image, int64_t l, int64_t a) const {
    return lists_[(image * levels() + l) * cells() + a];
  }

  // What the loss of each image is divided by.
  std::vector<double> divisors(const LossArguments& args) const {
    int64_t all = 0;
    for (const int64_t count : foreground_) all += count;
    std::vector<double> result(images_, number_in(args.normalizer, std::max<int64_t>(1, all)));
    for (int64_t image = 0; args.by_image && !args.normalizer && image < images_; ++image) {
      result[image] = static_cast<double>(std::max<int64_t>(1, foreground_[image]) * images_);
    }
    return result;
  }

 private:
  const AnchorTable& table_;
  const int64_t images_;
  std::vector<Specials> lists_;  // [image][level][cell anchor]
  std::vector<int64_t> foreground_;
};

// body(special) for the cell anchor's list from position `first` on, until it returns false.
template <class Body>
void for_specials(const Specials& list, int64_t first, int64_t cells, Body&& body) {
  const auto before = [](const Special& special, int64_t anchor) {
    return special.anchor < anchor;
  };
  auto each = std::lower_bound(list.begin(), list.end(), first * cells, before);
  while (each != list.end() && body(*each)) ++each;
}

}  // namespace focaldet
