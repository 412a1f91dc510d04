// RetinaNet post-processing on the CPU: raw head outputs to padded detections.
//
// A score passes the threshold exactly if its logit reaches a boundary, because sigmoid() is
// monotone: one vectorised comparison per logit, and a sigmoid for the survivors only. Then top-k
// by (score, flat index) per level, decoding and clipping of those, greedy NMS per class, best M.
// Memory traffic: one read of the logits; workspace O(candidates).
#include <algorithm>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <vector>

#include "../anchor_grid.h"
#include "../stable.h"
#include "kept_boxes.h"

namespace focaldet {
namespace {

struct Candidate {
  float score;
  int64_t index;  // flat, within the image: levels in order, then ((y W + x) A + a) K + k
  Box<float> box;
  int64_t label;
};

bool scores_above(const Candidate& a, const Candidate& b) {
  return a.score != b.score ? a.score > b.score : a.index < b.index;
}

// The smallest float whose sigmoid exceeds the threshold (infinity, if even that falls short),
// found by bisection over the floats in order.
float boundary_logit(float threshold) {
  const auto ordered = [](uint32_t rank) {  // 0 is -infinity's neighbour from below
    return bits_to_float(rank & 0x80000000u ? rank & 0x7fffffffu : ~rank);
  };
  uint32_t low = 0x007fffffu, high = 0xff800000u;  // -infinity and infinity
  while (low < high) {
    const uint32_t middle = low + (high - low) / 2;
    if (sigmoid(ordered(middle)) > threshold) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return ordered(low);
}

// One image of one head output, read through its strides.
template <class T>
struct Map {
  const T* data;
  int64_t stride_c, stride_y, stride_x;
  const T& at(int64_t c, int64_t y, int64_t x) const {
    return data[c * stride_c + y * stride_y + x * stride_x];
  }
};

template <class T>
Map<T> image_map(const Tensor& maps, int64_t image) {
  return {maps.const_data_ptr<T>() + image * maps.stride(0), maps.stride(1), maps.stride(2),
          maps.stride(3)};
}

struct Settings {
  float score_threshold, boundary, iou_threshold;
  int64_t topk, max_detections, classes;
  bool class_agnostic;
};

// All logits of a level that reach the boundary, then the best topk of them.
template <class T>
std::vector<Candidate> select(const Map<T>& logits, const AnchorTable::Level& level, int64_t cells,
                              const Settings& settings) {
  constexpr int64_t kChunk = 64;
  const int64_t height = level.grid.height, width = level.grid.width;
  const int64_t channels = cells * settings.classes;
  std::vector<Candidate> found;
  if (height == 0 || width == 0) return found;  // no memory behind the map
  const auto consider = [&](int64_t c, int64_t y, int64_t x) {
    const float score = sigmoid(static_cast<float>(logits.at(c, y, x)));
    if (!(score > settings.score_threshold)) return;  // topk = all: a NaN never passes
    found.push_back({score,
                     (level.first + (y * width + x) * cells) * settings.classes + c,
                     {},
                     c % settings.classes});
  };
  // The inner loop runs along the dimension that is dense in memory.
  const bool channels_last = logits.stride_c == 1 && logits.stride_x != 1;
  const int64_t inner = channels_last ? channels : width;
  const int64_t outer = channels_last ? width : channels;
  const int64_t inner_stride = channels_last ? logits.stride_c : logits.stride_x;
  for (int64_t o = 0; o < outer; ++o) {
    for (int64_t y = 0; y < height; ++y) {
      const T* row = channels_last ? &logits.at(0, y, o) : &logits.at(o, y, 0);
      for (int64_t first = 0; first < inner; first += kChunk) {
        const int64_t n = std::min(kChunk, inner - first);
        int32_t any = 0;
        vectorised([&]() FD_SIMD_LAMBDA {
          for (int64_t i = 0; i < n; ++i) {
            any |= static_cast<float>(row[(first + i) * inner_stride]) >= settings.boundary;
          }
        });
        if (any == 0) continue;
        for (int64_t i = first; i < first + n; ++i) {
          channels_last ? consider(i, y, o) : consider(o, y, i);
        }
      }
    }
  }
  if (static_cast<int64_t>(found.size()) > settings.topk) {
    std::nth_element(found.begin(), found.begin() + settings.topk, found.end(), scores_above);
    found.resize(settings.topk);
  }
  return found;
}

template <class T>
void decode_candidates(std::vector<Candidate>& candidates, const Map<T>& deltas,
                       const AnchorTable::Level& level, int64_t cells, int64_t classes,
                       const int64_t* image_size) {
  const auto height = static_cast<float>(image_size[0]), width = static_cast<float>(image_size[1]);
  for (Candidate& candidate : candidates) {
    const int64_t anchor = candidate.index / classes - level.first;
    const int64_t a = anchor % cells, x = anchor / cells % level.grid.width;
    const int64_t y = anchor / cells / level.grid.width;
    const auto delta = [&](int64_t i) { return static_cast<float>(deltas.at(4 * a + i, y, x)); };
    candidate.box = clip(decode<float>({delta(0), delta(1), delta(2), delta(3)},
                                       anchor_at(level.grid, y, x, level.cell(a))),
                         height, width);
  }
}

// Leaves the detections of one image, best first.
void suppress(std::vector<Candidate>& candidates, const Settings& settings) {
  candidates.erase(std::remove_if(candidates.begin(), candidates.end(),
                                  [](const Candidate& c) { return has_nan(c.box); }),
                   candidates.end());
  std::sort(candidates.begin(), candidates.end(), [&](const auto& a, const auto& b) {
    return a.label == b.label || settings.class_agnostic ? scores_above(a, b) : a.label < b.label;
  });
  KeptBoxes<float> list(settings.iou_threshold);
  size_t survivors = 0;
  int64_t label = -1;
  for (const Candidate candidate : candidates) {
    if (candidate.label != label && !settings.class_agnostic) {
      list.clear();
      label = candidate.label;
    }
    // A class cannot contribute more than all the detections there are.
    if (list.size() < settings.max_detections && list.offer(candidate.box)) {
      candidates[survivors++] = candidate;
    }
  }
  candidates.resize(survivors);
  std::sort(candidates.begin(), candidates.end(), scores_above);
  if (static_cast<int64_t>(candidates.size()) > settings.max_detections) {
    candidates.resize(settings.max_detections);
  }
}

void check_maps(const std::vector<Tensor>& cls_logits, const std::vector<Tensor>& box_deltas,
                const Tensor& image_sizes) {
  FD_CHECK(!cls_logits.empty() && cls_logits.size() == box_deltas.size(),
           "retinanet_postprocess: one map of logits and one of deltas per level");
  FD_CHECK(image_sizes.dim() == 2 && image_sizes.size(1) == 2 &&
               image_sizes.scalar_type() == ScalarType::Long,
           "retinanet_postprocess: image_sizes must be int64 [B, 2]");
  const int64_t images = image_sizes.size(0);
  for (size_t l = 0; l < cls_logits.size(); ++l) {
    const Tensor &logits = cls_logits[l], &deltas = box_deltas[l];
    FD_CHECK(
        logits.dim() == 4 && deltas.dim() == 4 && logits.size(0) == images &&
            deltas.size(0) == images && logits.size(2) == deltas.size(2) &&
            logits.size(3) == deltas.size(3) && logits.size(1) == cls_logits[0].size(1) &&
            deltas.size(1) == box_deltas[0].size(1) &&
            logits.scalar_type() == cls_logits[0].scalar_type() &&
            deltas.scalar_type() == logits.scalar_type(),
        "retinanet_postprocess: maps must be [B, A * K, H, W] and [B, A * 4, H, W] of one dtype");
  }
}

std::tuple<Tensor, Tensor, Tensor, Tensor> retinanet_postprocess(
    const std::vector<Tensor>& cls_logits, const std::vector<Tensor>& box_deltas,
    const std::vector<double>& cell_anchors, const std::vector<int64_t>& strides, double offset,
    const Tensor& image_sizes, double score_threshold, int64_t topk, double iou_threshold,
    int64_t max_detections, bool class_agnostic) {
  check_maps(cls_logits, box_deltas, image_sizes);
  FD_CHECK(topk >= 0 && max_detections >= 0,
           "retinanet_postprocess: topk and max_detections must not be negative");
  std::vector<int64_t> sizes;
  for (const Tensor& map : cls_logits) {
    sizes.push_back(map.size(2));
    sizes.push_back(map.size(3));
  }
  const AnchorTable table(cell_anchors, sizes, strides, offset);
  FD_CHECK(table.cells > 0 && cls_logits[0].size(1) % table.cells == 0 &&
               box_deltas[0].size(1) == 4 * table.cells,
           "retinanet_postprocess: the channels do not fit the grid's cell anchors");
  const auto threshold = static_cast<float>(score_threshold);
  const Settings settings{threshold,
                          boundary_logit(threshold),
                          static_cast<float>(iou_threshold),
                          topk,
                          max_detections,
                          cls_logits[0].size(1) / table.cells,
                          class_agnostic};

  const int64_t images = image_sizes.size(0), levels = static_cast<int64_t>(cls_logits.size());
  const Tensor& like = cls_logits[0];
  const Tensor size_rows = dense(image_sizes);
  Tensor boxes = full({images, max_detections, 4}, ScalarType::Float, like, 0);
  Tensor scores = full({images, max_detections}, ScalarType::Float, like, 0);
  Tensor labels = full({images, max_detections}, ScalarType::Long, like, -1);
  Tensor counts = full({images}, ScalarType::Long, like, 0);
  std::vector<std::vector<Candidate>> by_level(images * levels);

  dispatch_floating(like.scalar_type(), "retinanet_postprocess", [&](auto tag) {
    using T = typename decltype(tag)::type;
    torch::stable::parallel_for(0, images * levels, 1, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task) {
        const int64_t image = task / levels, l = task % levels;
        const AnchorTable::Level& level = table.levels[l];
        by_level[task] = select(image_map<T>(cls_logits[l], image), level, table.cells, settings);
        decode_candidates(by_level[task], image_map<T>(box_deltas[l], image), level, table.cells,
                          settings.classes, size_rows.const_data_ptr<int64_t>() + 2 * image);
      }
    });
  });
  torch::stable::parallel_for(0, images, 1, [&](int64_t begin, int64_t end) {
    for (int64_t image = begin; image < end; ++image) {
      std::vector<Candidate> candidates;
      for (int64_t l = 0; l < levels; ++l) {
        const auto& some = by_level[image * levels + l];
        candidates.insert(candidates.end(), some.begin(), some.end());
      }
      suppress(candidates, settings);
      const int64_t n = static_cast<int64_t>(candidates.size()), row = image * max_detections;
      auto* box = reinterpret_cast<Box<float>*>(boxes.mutable_data_ptr<float>()) + row;
      for (int64_t i = 0; i < n; ++i) {
        box[i] = candidates[i].box;
        scores.mutable_data_ptr<float>()[row + i] = candidates[i].score;
        labels.mutable_data_ptr<int64_t>()[row + i] = candidates[i].label;
      }
      counts.mutable_data_ptr<int64_t>()[image] = n;
    }
  });
  return {boxes, scores, labels, counts};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(focaldet, CPU, m) {
  m.impl("retinanet_postprocess", TORCH_BOX(&retinanet_postprocess));
}

}  // namespace focaldet
