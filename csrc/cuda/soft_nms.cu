// Exact greedy Soft-NMS (Bodla et al. 2017) on CUDA, in linear memory and without host
// synchronisation but for the length of the output.
//
//   1. Rows are put in order by group (aten::sort, stable; none where all are one group), and
//      lay_out_scores fetches boxes and scores, NaN where there is no candidate.
//   2. soft_nms_groups: a block takes 32 places and works on the groups that begin there, one after
//      the other. In each round a thread goes through its own boxes of the group, lowers their
//      scores by what the box picked last says, and remembers its best; the best of the block is
//      picked. So a score is read and written by one thread alone, and a round has one barrier.
//   3. A stable sort by the final scores lists the picked rows, and final_scores fetches theirs.
// Launches: 3, a fill and a stable sort; with groups a launch and a sort more.
//
// Bytes per candidate: about 100 for steps 1 and 3, 100 for each sort; step 2 reads, from the
// caches, 20 per pair of a pick and a box of its group, and writes 4 if they overlap. Operations:
// about 30 per pair. A group is the work of one block, quadratic in its size.
#include "../arguments.h"
#include "../math/soft_nms.h"
#include "nms_order.cuh"

namespace focaldet {
namespace {

constexpr int kSoftThreads = 512;

// Rows with a NaN go to the end, as members of whatever group has the last id: they are no
// candidates there, either.
template <class T>
__global__ void __launch_bounds__(kOrderThreads)
    groups_by_row(const int64_t* groups, const T* boxes, const T* scores, int64_t n,
                  int64_t* keys) {
  for (int64_t i = thread_index(); i < n; i += thread_count()) {
    const bool candidate = scores[i] == scores[i] && !has_nan(load_box(boxes, i));
    keys[i] = candidate ? groups[i] : std::numeric_limits<int64_t>::max();
  }
}

// By place: boxes and scores; groups and rows, null where all boxes are one group and the place is
// the row. By row: keys to sort the picked by, NaN for the others, and their scores.
template <class T>
struct SoftProblem {
  int64_t n;
  const int64_t* groups;
  const int64_t* rows;
  T* boxes;
  T* scores;
  T* keys;
  T* final_scores;
  Word* count;
  T threshold, sigma, least;
  SoftNms method;
};

template <class T>
__global__ void __launch_bounds__(kOrderThreads)
    lay_out_scores(const SoftProblem<T> p, const T* boxes, const T* scores) {
  constexpr T kNaN = std::numeric_limits<T>::quiet_NaN();
  for (int64_t i = thread_index(); i < p.n; i += thread_count()) {
    const int64_t row = p.rows == nullptr ? i : p.rows[i];
    const Box<T> box = load_box(boxes, row);
    store_box(p.boxes, i, box);
    p.scores[i] = has_nan(box) ? kNaN : scores[row] + T(0);  // -0.0 becomes 0.0
    p.keys[i] = kNaN;
  }
}

template <class T>
struct Best {
  T score;
  int64_t place;  // -1: nobody
};

// Places rise with the rows, so the lower place of equal scores is the lower row.
template <class T>
__device__ __forceinline__ Best<T> better(const Best<T>& a, const Best<T>& b) {
  if (a.place < 0 || b.place < 0) return a.place < 0 ? b : a;
  const bool first = a.score > b.score || (a.score == b.score && a.place < b.place);
  return first ? a : b;
}

// Two blocks to a processor: for more, nvcc would spill.
template <class T>
__global__ void __launch_bounds__(kSoftThreads, 2) soft_nms_groups(const SoftProblem<T> p) {
  constexpr int kWarps = kSoftThreads / kWarp;
  // The best of each warp, in this round and in the last one, which some still read.
  FD_SHARED(T, best_scores, 2 * kWarps);
  FD_SHARED(int64_t, best_places, 2 * kWarps);
  const int thread = threadIdx.x, lane = thread % kWarp, warp = thread / kWarp;
  const int64_t base = static_cast<int64_t>(blockIdx.x) * kWarp, at = base + lane;
  const bool head =
      at < p.n && (at == 0 || (p.groups != nullptr && p.groups[at] != p.groups[at - 1]));
  int round = 0;
  for (unsigned heads = __ballot_sync(kAllLanes, head); heads != 0; heads &= heads - 1) {
    const int64_t begin = base + __ffs(static_cast<int>(heads)) - 1;
    int64_t end = p.n;
    if (p.groups != nullptr) {
      const auto behind = [&](int64_t place) { return p.groups[place] != p.groups[begin]; };
      end = first_place(begin + 1, p.n, behind);
    }
    Best<T> picked{T(0), -1};
    Box<T> box{};
    Word count = 0;
    for (;; ++count) {
      Best<T> best{T(0), -1};
      for (int64_t i = begin + thread; i < end; i += kSoftThreads) {
        T score = p.scores[i];
        if (!(score >= p.least)) continue;
        if (i == picked.place) {
          p.scores[i] = std::numeric_limits<T>::quiet_NaN();
          continue;
        }
        if (picked.place >= 0) {
          const Box<T> own = load_box(p.boxes, i);
          const T overlap = soft_nms_overlap(box, area(box), own, area(own));
          const T weight = soft_nms_weight(overlap, p.threshold, p.sigma, p.method);
          if (weight != T(1)) p.scores[i] = score *= weight;
          if (!(score >= p.least)) continue;
        }
        best = better(best, Best<T>{score, i});
      }
#pragma unroll
      for (int offset = kWarp / 2; offset > 0; offset /= 2) {
        best = better(best, Best<T>{__shfl_xor_sync(kAllLanes, best.score, offset),
                                    __shfl_xor_sync(kAllLanes, best.place, offset)});
      }
      const int of_round = (round++ % 2) * kWarps;
      if (lane == 0) {
        best_scores[of_round + warp] = best.score;
        best_places[of_round + warp] = best.place;
      }
      __syncthreads();
      picked = {T(0), -1};
      for (int w = of_round; w < of_round + kWarps; ++w) {
        picked = better(picked, Best<T>{best_scores[w], best_places[w]});
      }
      if (picked.place < 0) break;
      box = load_box(p.boxes, picked.place);
      if (thread == 0) {
        const int64_t row = p.rows == nullptr ? picked.place : p.rows[picked.place];
        p.keys[row] = T(0) - picked.score;
        p.final_scores[row] = picked.score;
      }
    }
    if (thread == 0) atomicAdd(p.count, count);
  }
}

template <class T>
__global__ void __launch_bounds__(kOrderThreads)
    final_scores(const T* by_row, const int64_t* rows, int64_t n, T* out) {
  for (int64_t i = thread_index(); i < n; i += thread_count()) out[i] = by_row[rows[i]];
}

std::tuple<Tensor, Tensor> soft_nms(const Tensor& boxes, const Tensor& scores,
                                    const std::optional<Tensor>& idxs, double iou_threshold,
                                    double sigma, double min_score, const std::string& method) {
  check_soft_nms(boxes, scores, idxs, iou_threshold, sigma, min_score);
  check_device(boxes, {scores, idxs}, "soft_nms");
  const int64_t n = boxes.size(0);
  const OnDevice device(boxes);
  const std::optional<Tensor> groups = dense(idxs, ScalarType::Long);
  Tensor count = full({1}, ScalarType::Long, boxes, 0);
  const Grid each{blocks_for(n, kOrderThreads), kOrderThreads};
  return in_type_of(boxes, scores, [&](auto tag, ScalarType dtype) {
    using T = typename decltype(tag)::type;
    const Tensor b = dense(boxes, dtype), s = dense(scores, dtype);
    const T* const box = b.template const_data_ptr<T>();
    const T* const score = s.template const_data_ptr<T>();
    Tensor own_boxes = empty({n, 4}, dtype, boxes), own_scores = empty({n}, dtype, boxes);
    Tensor keys = empty({n}, dtype, boxes), by_row = empty({n}, dtype, boxes);
    SoftProblem<T> problem{n,
                           nullptr,
                           nullptr,
                           own_boxes.template mutable_data_ptr<T>(),
                           own_scores.template mutable_data_ptr<T>(),
                           keys.template mutable_data_ptr<T>(),
                           by_row.template mutable_data_ptr<T>(),
                           reinterpret_cast<Word*>(count.mutable_data_ptr<int64_t>()),
                           static_cast<T>(iou_threshold),
                           static_cast<T>(sigma),
                           static_cast<T>(min_score),
                           soft_nms_method(method)};
    std::optional<std::tuple<Tensor, Tensor>> grouped;  // ids and rows
    if (groups) {
      Tensor ids = empty({n}, ScalarType::Long, boxes);
      device.launch(each, groups_by_row<T>, groups->template const_data_ptr<int64_t>(), box, score,
                    n, ids.mutable_data_ptr<int64_t>());
      grouped = stable_sort(ids);
      problem.groups = std::get<0>(*grouped).template const_data_ptr<int64_t>();
      problem.rows = std::get<1>(*grouped).template const_data_ptr<int64_t>();
    }
    device.launch(each, lay_out_scores<T>, problem, box, score);
    device.launch({blocks_for(n, kWarp), kSoftThreads}, soft_nms_groups<T>, problem);
    Tensor rows = std::get<1>(stable_sort(keys));
    const int64_t kept = item(count);
    // A copy of its own size: a view would hold on to all n.
    Tensor keep = torch::stable::clone(torch::stable::narrow(rows, 0, 0, kept));
    Tensor result = empty({kept}, dtype, boxes);
    device.launch({blocks_for(kept, kOrderThreads), kOrderThreads}, final_scores<T>,
                  by_row.template const_data_ptr<T>(), keep.const_data_ptr<int64_t>(), kept,
                  result.template mutable_data_ptr<T>());
    return std::tuple<Tensor, Tensor>(keep, result);
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(focaldet, CUDA, m) { m.impl("soft_nms", TORCH_BOX(&soft_nms)); }

}  // namespace focaldet
