// Exact greedy non-maximum suppression on the CPU, in linear memory.
//
// Boxes with a NaN are dropped, the rest are sorted by (group, falling score, index) and each group
// is suppressed on its own (greedy_nms.h), groups in parallel. Groups are compared by id, never by
// shifting coordinates. The order within a group is a total order, so neither threads nor the sort
// can change the answer.
#include <algorithm>
#include <cmath>
#include <vector>

#include "../arguments.h"
#include "greedy_nms.h"

namespace focaldet {
namespace {

template <class T>
struct Candidate {
  int64_t group;
  T score;
  int64_t index;
};

template <class T>
bool scores_above(const Candidate<T>& a, const Candidate<T>& b) {
  return a.score != b.score ? a.score > b.score : a.index < b.index;
}

// Sorts the candidates by group and leaves those that survive, by falling score.
template <class T>
void suppress(std::vector<Candidate<T>>& candidates, const Box<T>* boxes, double iou_threshold) {
  std::sort(candidates.begin(), candidates.end(), [](const auto& a, const auto& b) {
    return a.group != b.group ? a.group < b.group : scores_above(a, b);
  });
  std::vector<int64_t> starts;
  const int64_t n = static_cast<int64_t>(candidates.size());
  for (int64_t i = 0; i < n; ++i) {
    if (i == 0 || candidates[i].group != candidates[i - 1].group) starts.push_back(i);
  }
  starts.push_back(n);
  std::vector<char> kept(n);
  const int64_t groups = static_cast<int64_t>(starts.size()) - 1;
  torch::stable::parallel_for(0, groups, 1, [&](int64_t begin, int64_t end) {
    KeptBoxes<T> list(static_cast<T>(iou_threshold));
    for (int64_t g = begin; g < end; ++g) {
      list.clear();
      for (int64_t i = starts[g]; i < starts[g + 1]; ++i) {
        kept[i] = list.offer(boxes[candidates[i].index]);
      }
    }
  });
  int64_t survivors = 0;
  for (int64_t i = 0; i < n; ++i) {
    if (kept[i]) candidates[survivors++] = candidates[i];
  }
  candidates.resize(survivors);
  if (groups > 1) std::sort(candidates.begin(), candidates.end(), scores_above<T>);
}

Tensor grouped_nms(const Tensor& boxes, const Tensor& scores, const int64_t* groups,
                   double iou_threshold) {
  return dispatch_nms(boxes, scores, [&](auto tag, ScalarType dtype) {
    using T = typename decltype(tag)::type;
    const Tensor b = dense(boxes, dtype), s = dense(scores, dtype);
    const auto* box = reinterpret_cast<const Box<T>*>(b.template const_data_ptr<T>());
    const T* score = s.template const_data_ptr<T>();
    const int64_t n = b.size(0);
    std::vector<Candidate<T>> candidates;
    candidates.reserve(n);
    for (int64_t i = 0; i < n; ++i) {
      if (std::isnan(score[i]) || has_nan(box[i])) continue;
      candidates.push_back({groups == nullptr ? 0 : groups[i], score[i], i});
    }
    suppress(candidates, box, iou_threshold);
    Tensor keep = empty({static_cast<int64_t>(candidates.size())}, ScalarType::Long, boxes);
    int64_t* out = keep.mutable_data_ptr<int64_t>();
    for (size_t i = 0; i < candidates.size(); ++i) out[i] = candidates[i].index;
    return keep;
  });
}

Tensor nms(const Tensor& boxes, const Tensor& scores, double iou_threshold) {
  check_nms(boxes, scores, std::nullopt, iou_threshold, "nms");
  return grouped_nms(boxes, scores, nullptr, iou_threshold);
}

Tensor batched_nms(const Tensor& boxes, const Tensor& scores, const Tensor& idxs,
                   double iou_threshold) {
  check_nms(boxes, scores, idxs, iou_threshold, "batched_nms");
  const Tensor groups = dense(idxs, ScalarType::Long);
  return grouped_nms(boxes, scores, groups.const_data_ptr<int64_t>(), iou_threshold);
}

std::tuple<Tensor, Tensor> nms_padded(const Tensor& boxes, const Tensor& scores,
                                      const std::optional<Tensor>& labels, double iou_threshold,
                                      double score_threshold, int64_t max_detections) {
  check_nms_padded(boxes, scores, labels, iou_threshold, max_detections);
  const int64_t images = boxes.size(0), n = boxes.size(1);
  const std::optional<Tensor> groups = dense(labels, ScalarType::Long);
  Tensor idx = full({images, max_detections}, ScalarType::Long, boxes, -1);
  Tensor count = full({images}, ScalarType::Long, boxes, 0);
  dispatch_nms(boxes, scores, [&](auto tag, ScalarType dtype) {
    using T = typename decltype(tag)::type;
    const Tensor b = dense(boxes, dtype), s = dense(scores, dtype);
    const T threshold = static_cast<T>(rounded_as(scores, score_threshold));
    std::vector<Candidate<T>> candidates;
    for (int64_t image = 0; image < images; ++image) {
      const auto* box = reinterpret_cast<const Box<T>*>(b.template const_data_ptr<T>()) + image * n;
      const T* score = s.template const_data_ptr<T>() + image * n;
      const int64_t* label = groups ? groups->const_data_ptr<int64_t>() + image * n : nullptr;
      candidates.clear();
      for (int64_t i = 0; i < n; ++i) {
        // A NaN score is not above any threshold.
        if (score[i] > threshold && !has_nan(box[i]))
          candidates.push_back({label == nullptr ? 0 : label[i], score[i], i});
      }
      suppress(candidates, box, iou_threshold);
      const int64_t kept = std::min(max_detections, static_cast<int64_t>(candidates.size()));
      int64_t* out = idx.mutable_data_ptr<int64_t>() + image * max_detections;
      for (int64_t i = 0; i < kept; ++i) out[i] = candidates[i].index;
      count.mutable_data_ptr<int64_t>()[image] = kept;
    }
  });
  return {idx, count};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(focaldet, CPU, m) {
  m.impl("nms", TORCH_BOX(&nms));
  m.impl("batched_nms", TORCH_BOX(&batched_nms));
  m.impl("nms_padded", TORCH_BOX(&nms_padded));
}

}  // namespace focaldet
