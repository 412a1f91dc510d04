// RetinaNet post-processing on the CPU: raw head outputs to padded detections.
//
// 1. Select. A score passes the threshold exactly if its logit reaches a boundary, because
//    sigmoid() is monotone: one vectorised comparison per logit (logit_scan.h), and a sigmoid for
//    those few that pass. All logits are divided among the threads in equal parts, whatever image
//    and level they belong to; the best topk of a level come together under a lock
//    (top_candidates.h), and its boundary rises on the way.
// 2. Detect. An image's levels are walked together, best candidate first. Each is decoded, clipped
//    and tested against the boxes kept of its class. The walk ends when max_detections are kept,
//    for nothing that comes later can change them; what it does not reach is never decoded.
//
// Memory traffic: one read of the logits. Workspace, for B images of L levels: candidates, at most
// 32 B x B x L x topk; up to 44 KB of stack for a thread; the boxes kept of each image in work.
#include <algorithm>
#include <cstdint>
#include <deque>
#include <unordered_map>
#include <vector>

#include "../head_maps.h"
#include "kept_index.h"
#include "logit_scan.h"
#include "top_candidates.h"

namespace focaldet {
namespace {

struct Settings {
  float score_threshold, iou_threshold;
  int64_t topk, max_detections, classes;
  bool class_agnostic;
};

// The maps of one output by image and, within an image, by level.
template <class T>
std::vector<ImageMap<T>> image_maps(const Tensors& levels, int64_t images) {
  std::vector<ImageMap<T>> maps;
  for (int64_t image = 0; image < images; ++image) {
    for (const Tensor& level : levels) maps.emplace_back(level, image);
  }
  return maps;
}

// The best topk candidates of each map of logits.
template <class T>
std::deque<TopCandidates> select(const std::vector<ImageMap<T>>& logits, const AnchorTable& table,
                                 const Settings& settings) {
  constexpr int64_t kSpan = 4096, kGrain = 8;
  const float boundary = boundary_logit(settings.score_threshold);
  std::deque<TopCandidates> best;          // which cannot be moved
  std::vector<int64_t> first_spans = {0};  // of each map; and their number
  for (const ImageMap<T>& map : logits) {
    best.emplace_back(settings.topk, map.size(), boundary);
    first_spans.push_back(first_spans.back() + (map.size() + kSpan - 1) / kSpan);
  }
  torch::stable::parallel_for(0, first_spans.back(), kGrain, [&](int64_t span, int64_t end) {
    T buffer[kSpan];
    int64_t m =
        std::upper_bound(first_spans.begin(), first_spans.end(), span) - first_spans.begin() - 1;
    for (; span < end; ++m) {
      const ImageMap<T>& map = logits[m];
      const int64_t first_index = table.levels[m % table.levels.size()].first * settings.classes;
      CandidateBatch batch(best[m], settings.score_threshold);
      Reaches<T> reaches(boundary);
      float reached = boundary;
      for (const int64_t stop = std::min(end, first_spans[m + 1]); span < stop; ++span) {
        const int64_t position = (span - first_spans[m]) * kSpan;
        const int64_t n = std::min(kSpan, map.size() - position);
        const T* values = map.read(position, n, buffer);
        if (const float risen = best[m].boundary(); risen != reached) {
          reaches = Reaches<T>(reached = risen);
        }
        scan(values, n, reaches, [&](int64_t i) {
          batch.add(static_cast<float>(values[i]), first_index + map.flat_index(position + i));
        });
      }
      batch.flush();
    }
  });
  return best;
}

// Where the detections of one image go.
struct Rows {
  Box<float>* boxes;
  float* scores;
  int64_t* labels;
};

// Walks the candidates of one image, by level, and returns how many it keeps.
template <class T>
int64_t detect(std::deque<TopCandidates>::iterator best, const ImageMap<T>* deltas,
               const AnchorTable& table, const int64_t* image_size, const Settings& settings,
               const Rows& out) {
  const auto height = static_cast<float>(image_size[0]), width = static_cast<float>(image_size[1]);
  const int64_t levels = static_cast<int64_t>(table.levels.size());
  for (int64_t l = 0; l < levels; ++l) best[l].begin();
  std::unordered_map<int64_t, KeptGroup<float>> kept;  // by class
  int64_t count = 0;
  while (count < settings.max_detections) {
    int64_t l = -1;
    for (int64_t other = 0; other < levels; ++other) {
      if (best[other].empty()) continue;
      if (l < 0 || Better()(best[other].front(), best[l].front())) l = other;
    }
    if (l < 0) break;
    const Candidate candidate = best[l].front();
    best[l].pop();

    const AnchorTable::Level& level = table.levels[l];
    const int64_t anchor = candidate.index / settings.classes - level.first;
    const int64_t a = anchor % table.cells, position = anchor / table.cells;
    const int64_t y = position / level.grid.width, x = position % level.grid.width;
    const auto delta = [&](int64_t i) { return deltas[l].at(4 * a + i, y, x); };
    const Box<float> box = clip(decode<float>({delta(0), delta(1), delta(2), delta(3)},
                                              anchor_at(level.grid, y, x, level.cell(a))),
                                height, width);
    if (has_nan(box)) continue;
    const int64_t label = candidate.index % settings.classes;
    const int64_t group = settings.class_agnostic ? 0 : label;
    if (!kept.try_emplace(group, settings.iou_threshold).first->second.offer(box)) continue;
    out.boxes[count] = box;
    out.scores[count] = candidate.score;
    out.labels[count++] = label;
  }
  return count;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> retinanet_postprocess(
    const Tensors& cls_logits, const Tensors& box_deltas, const std::vector<double>& cell_anchors,
    const std::vector<int64_t>& strides, double offset, const Tensor& image_sizes,
    double score_threshold, int64_t topk, double iou_threshold, int64_t max_detections,
    bool class_agnostic) {
  const PostprocessArguments arguments{cls_logits,    box_deltas,     cell_anchors,    strides,
                                       offset,        image_sizes,    score_threshold, topk,
                                       iou_threshold, max_detections, class_agnostic};
  const AnchorTable table = arguments.checked();
  const Settings settings{static_cast<float>(score_threshold),
                          static_cast<float>(iou_threshold),
                          topk,
                          max_detections,
                          cls_logits[0].size(1) / table.cells,
                          class_agnostic};

  const int64_t images = arguments.images(), levels = arguments.levels();
  const Tensor& like = cls_logits[0];
  const Tensor size_rows = dense(image_sizes);
  Tensor boxes = full({images, max_detections, 4}, ScalarType::Float, like, 0);
  Tensor scores = full({images, max_detections}, ScalarType::Float, like, 0);
  Tensor labels = full({images, max_detections}, ScalarType::Long, like, -1);
  Tensor counts = full({images}, ScalarType::Long, like, 0);
  if (topk == 0 || max_detections == 0) return {boxes, scores, labels, counts};
  const Rows rows{reinterpret_cast<Box<float>*>(boxes.mutable_data_ptr<float>()),
                  scores.mutable_data_ptr<float>(), labels.mutable_data_ptr<int64_t>()};
  int64_t* found = counts.mutable_data_ptr<int64_t>();
  const int64_t* size = size_rows.const_data_ptr<int64_t>();

  dispatch_floating(like.scalar_type(), "retinanet_postprocess", [&](auto tag) {
    using T = typename decltype(tag)::type;
    auto best = select(image_maps<T>(cls_logits, images), table, settings);
    const auto deltas = image_maps<T>(box_deltas, images);
    torch::stable::parallel_for(0, images, 1, [&](int64_t begin, int64_t end) {
      for (int64_t image = begin; image < end; ++image) {
        const int64_t first = image * max_detections;
        found[image] =
            detect(best.begin() + image * levels, &deltas[image * levels], table, size + 2 * image,
                   settings, {rows.boxes + first, rows.scores + first, rows.labels + first});
      }
    });
  });
  return {boxes, scores, labels, counts};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(focaldet, CPU, m) {
  m.impl("retinanet_postprocess", TORCH_BOX(&retinanet_postprocess));
}

}  // namespace focaldet
