// Exact greedy non-maximum suppression on the CPU, in linear memory.
//
// Candidates are sorted by falling score (radix_sort.h, stable, so ties go by row), then, if there
// are groups, by group. Each group is walked in that order: a box is kept unless one kept before
// suppresses it. That is a list of the kept boxes for small groups, an index by place and size for
// large ones (kept_index.h): about N boxes times the few they touch.
//
// Threads take groups. A huge group is walked in blocks: first each box of the block meets the
// boxes kept in earlier blocks, in parallel, as these do not change; then the survivors meet those
// kept within the block, one after the other. What is kept is determined by the order alone, so the
// threads cannot change it.
//
// Memory: 32 bytes a candidate for the sort, then 16 and a box for the walk, and the kept boxes.
#include "greedy_nms.h"

#include <algorithm>
#include <cmath>

#include "../stable.h"
#include "kept_index.h"
#include "radix_sort.h"

namespace focaldet {
namespace {

constexpr int64_t kListed = 192;     // candidates of a group: with fewer, a list is faster
constexpr int64_t kHuge = 32768;     // a group that pays for threads of its own
constexpr int64_t kBlock = 8192;     // of a huge group

// Keys whose rising order is the falling order of scores. -0.0 is 0.0.
uint64_t falling(float score) {
  const float positive_zero = score + 0.0f;
  uint32_t bits;
  std::memcpy(&bits, &positive_zero, sizeof bits);
  return bits >> 31 != 0 ? bits : ~bits & 0x7fffffffu;
}
uint64_t falling(double score) {
  const double positive_zero = score + 0.0;
  uint64_t bits;
  std::memcpy(&bits, &positive_zero, sizeof bits);
  return bits >> 63 != 0 ? bits : ~bits & 0x7fffffffffffffffu;
}

// Rows of candidates (values) by falling score.
template <class T>
std::vector<Keyed> candidates_by_score(const NmsProblem<T>& problem) {
  std::vector<Keyed> candidates;
  candidates.reserve(problem.n);
  for (int64_t i = 0; i < problem.n; ++i) {
    const T score = problem.scores[i];
    // A NaN is not above any threshold.
    const bool passes =
        problem.score_threshold ? score > *problem.score_threshold : !std::isnan(score);
    if (passes && !has_nan(problem.boxes[i])) candidates.push_back({falling(score), i});
  }
  radix_sort(candidates);
  return candidates;
}

// Groups side by side, each in falling order of score. kept and suppressors are by position;
// a suppressor is a position, too.
template <class T>
struct Walk {
  const std::vector<Box<T>>& boxes;
  T threshold;
  int64_t limit;  // of a group: more are not wanted
  std::vector<uint8_t>& kept;
  std::vector<int64_t>* suppressors;  // null: any will do

  void group(int64_t begin, int64_t end) const {
    if (end - begin <= kListed) return with_list(begin, end);
    suppressors == nullptr ? with_index<false>(begin, end) : with_index<true>(begin, end);
  }

 private:
  void settle(int64_t i, int64_t suppressor) const {
    kept[i] = suppressor == kNone;
    if (suppressors != nullptr) (*suppressors)[i] = suppressor == kNone ? i : suppressor;
  }

  void with_list(int64_t begin, int64_t end) const {
    KeptBoxes<T> list(threshold);
    std::vector<int64_t> positions;
    for (int64_t i = begin; i < end && list.size() < limit; ++i) {
      const int64_t found = list.suppressor(boxes[i]);
      settle(i, found == kNone ? kNone : positions[found]);
      if (found != kNone) continue;
      list.add(boxes[i]);
      positions.push_back(i);
    }
  }

  KeptIndex<T> index(int64_t begin, int64_t end, int64_t size) const {
    T longest = 0;
    for (int64_t i = begin; i < end; ++i) {
      const T side = max_(boxes[i].x2 - boxes[i].x1, boxes[i].y2 - boxes[i].y1);
      if (side <= std::numeric_limits<T>::max()) longest = max_(longest, side);
    }
    return KeptIndex<T>(threshold, size, longest);
  }

  template <bool kBest>
  void with_index(int64_t begin, int64_t end) const {
    FD_CHECK(end - begin <= KeptIndex<T>::kMost, "nms: at most ", KeptIndex<T>::kMost,
             " boxes in a group on the CPU, not ", end - begin);
    if (end - begin >= kHuge && torch::stable::get_num_threads() > 1) {
      return in_blocks<kBest>(begin, end);
    }
    KeptIndex<T> all = index(begin, end, end - begin);
    vectorised([&]() FD_SIMD_LAMBDA {
      int64_t count = 0;
      for (int64_t i = begin; i < end && count < limit; ++i) {
        const int64_t found = all.template suppressor<kBest>(boxes[i]);
        settle(i, found == kNone ? kNone : begin + found);
        if (found != kNone) continue;
        all.add(boxes[i], i - begin);
        ++count;
      }
    });
  }

  template <bool kBest>
  void in_blocks(int64_t begin, int64_t end) const {
    KeptIndex<T> earlier = index(begin, end, end - begin), own = index(begin, end, kBlock);
    std::vector<int64_t> found(kBlock);
    int64_t count = 0;
    for (int64_t first = begin; first < end && count < limit; first += kBlock) {
      const int64_t last = std::min(end, first + kBlock);
      torch::stable::parallel_for(first, last, 256, [&](int64_t from, int64_t to) {
        vectorised([&]() FD_SIMD_LAMBDA {
          for (int64_t i = from; i < to; ++i) {
            found[i - first] = earlier.template suppressor<kBest>(boxes[i]);
          }
        });
      });
      own.clear();
      vectorised([&]() FD_SIMD_LAMBDA {
        for (int64_t i = first; i < last && count < limit; ++i) {
          int64_t suppressor = found[i - first];
          if (suppressor == kNone) suppressor = own.template suppressor<kBest>(boxes[i]);
          settle(i, suppressor == kNone ? kNone : begin + suppressor);
          if (suppressor != kNone) continue;
          own.add(boxes[i], i - begin);
          earlier.add(boxes[i], i - begin);
          ++count;
        }
      });
    }
  }
};

}  // namespace

template <class T>
std::vector<int64_t> greedy_nms(const NmsProblem<T>& problem, int64_t* match) {
  const std::vector<Keyed> ranked = candidates_by_score(problem);
  const int64_t n = static_cast<int64_t>(ranked.size());
  std::vector<Keyed> grouped;  // ranks (values) by group
  std::vector<int64_t> starts{0};
  if (problem.groups != nullptr) {
    grouped.reserve(n);
    for (int64_t rank = 0; rank < n; ++rank) {
      grouped.push_back({static_cast<uint64_t>(problem.groups[ranked[rank].value]), rank});
    }
    radix_sort(grouped);
    for (int64_t i = 1; i < n; ++i) {
      if (grouped[i].key != grouped[i - 1].key) starts.push_back(i);
    }
  }
  const auto rank_at = [&](int64_t i) { return grouped.empty() ? i : grouped[i].value; };
  const auto row_at = [&](int64_t i) { return ranked[rank_at(i)].value; };
  std::vector<Box<T>> boxes(n);
  for (int64_t i = 0; i < n; ++i) boxes[i] = problem.boxes[row_at(i)];

  std::vector<uint8_t> kept(n);
  std::vector<int64_t> suppressors(match == nullptr ? 0 : n);
  const Walk<T> walk{boxes, problem.iou_threshold, problem.limit, kept,
                     match == nullptr ? nullptr : &suppressors};
  const int64_t groups = static_cast<int64_t>(starts.size());
  starts.push_back(n);
  // Huge groups have all threads, one after the other; the others share them by candidates.
  std::vector<int64_t> others;
  for (int64_t g = 0; g < groups; ++g) {
    starts[g + 1] - starts[g] >= kHuge ? walk.group(starts[g], starts[g + 1]) : others.push_back(g);
  }
  torch::stable::parallel_for(0, n, 1024, [&](int64_t begin, int64_t end) {
    auto group = std::lower_bound(others.begin(), others.end(), begin,
                                  [&](int64_t g, int64_t place) { return starts[g] < place; });
    for (; group != others.end() && starts[*group] < end; ++group) {
      walk.group(starts[*group], starts[*group + 1]);
    }
  });

  if (match != nullptr) {
    std::fill(match, match + problem.n, kNone);
    for (int64_t i = 0; i < n; ++i) match[row_at(i)] = row_at(suppressors[i]);
  }
  std::vector<uint8_t> kept_rank;
  if (!grouped.empty()) {
    kept_rank.resize(n);
    for (int64_t i = 0; i < n; ++i) kept_rank[rank_at(i)] = kept[i];
  }
  const std::vector<uint8_t>& by_rank = grouped.empty() ? kept : kept_rank;
  std::vector<int64_t> rows;
  for (int64_t rank = 0; rank < n && static_cast<int64_t>(rows.size()) < problem.limit; ++rank) {
    if (by_rank[rank]) rows.push_back(ranked[rank].value);
  }
  return rows;
}

template std::vector<int64_t> greedy_nms(const NmsProblem<float>&, int64_t*);
template std::vector<int64_t> greedy_nms(const NmsProblem<double>&, int64_t*);

}  // namespace focaldet
