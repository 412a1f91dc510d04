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
// Memory: 32 bytes a candidate for the sort, then 16 and a box for the walk, and the index, which
// takes some 70 bytes a kept box where many are, and several times that where they are scattered.
#include "greedy_nms.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "../stable.h"
#include "kept_index.h"
#include "radix_sort.h"

namespace focaldet {
namespace {

constexpr int64_t kBlock = 8192;  // of a huge group

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

// The rows of candidates by falling score.
template <class T>
std::vector<int64_t> candidates_by_score(const NmsProblem<T>& problem) {
  std::vector<int64_t> rows;
  rows.reserve(problem.n);
  for (int64_t i = 0; i < problem.n; ++i) {
    const T score = problem.scores[i];
    // A NaN is not above any threshold.
    const bool passes =
        problem.score_threshold ? score > *problem.score_threshold : !std::isnan(score);
    if (passes && !has_nan(problem.boxes[i])) rows.push_back(i);
  }
  stable_sort_by(rows, [&](int64_t row) { return falling(problem.scores[row]); });
  return rows;
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
    if (suppressors == nullptr) {
      walk<false>(begin, end);
    } else {
      walk<true>(begin, end);
    }
  }

 private:
  // Says whether the box is kept.
  bool settle(int64_t i, int64_t suppressor) const {
    kept[i] = suppressor == kNone;
    if (suppressors != nullptr) (*suppressors)[i] = suppressor == kNone ? i : suppressor;
    return suppressor == kNone;
  }

  template <bool kBest>
  void walk(int64_t begin, int64_t end) const {
    std::vector<int64_t> listed;  // positions
    const int64_t first = with_list<kBest>(begin, end, listed);
    const int64_t left = limit - static_cast<int64_t>(listed.size());
    if (first == end || left <= 0) return;
    KeptIndex<T, kBest> kept_before(threshold, end - begin);
    for (const int64_t i : listed) kept_before.add(boxes[i], i);
    if (end - first >= kHugeGroup && torch::stable::get_num_threads() > 1) {
      in_blocks<kBest>(first, end, left, kept_before);
    } else {
      one_by_one<kBest>(first, end, left, kept_before);
    }
  }

  // Up to the first box that it does not decide about.
  template <bool kBest>
  int64_t with_list(int64_t begin, int64_t end, std::vector<int64_t>& listed) const {
    KeptBoxes<T> list(threshold);
    const int64_t most = std::min(kListed, limit);
    int64_t i = begin;
    vectorised([&]() FD_SIMD_LAMBDA {
      for (; i < end && list.size() < most; ++i) {
        const int64_t found = list.template suppressor<kBest>(boxes[i]);
        if (settle(i, found == kNone ? kNone : listed[found])) {
          list.add(boxes[i]);
          listed.push_back(i);
        }
      }
    });
    return i;
  }

  template <bool kBest>
  void one_by_one(int64_t begin, int64_t end, int64_t left,
                  KeptIndex<T, kBest>& kept_before) const {
    vectorised([&]() FD_SIMD_LAMBDA {
      for (int64_t i = begin; i < end && left > 0; ++i) {
        if (settle(i, kept_before.suppressor(boxes[i]))) {
          kept_before.add(boxes[i], i);
          --left;
        }
      }
    });
  }

  template <bool kBest>
  void in_blocks(int64_t begin, int64_t end, int64_t left, KeptIndex<T, kBest>& kept_before) const {
    KeptIndex<T, kBest> own(threshold, kBlock);
    std::vector<int64_t> found(kBlock);
    for (int64_t first = begin; first < end && left > 0; first += kBlock) {
      const int64_t last = std::min(end, first + kBlock);
      torch::stable::parallel_for(first, last, 256, [&](int64_t from, int64_t to) {
        vectorised([&]() FD_SIMD_LAMBDA {
          for (int64_t i = from; i < to; ++i) {
            found[i - first] = kept_before.suppressor(boxes[i]);
          }
        });
      });
      own.clear();
      vectorised([&]() FD_SIMD_LAMBDA {
        for (int64_t i = first; i < last && left > 0; ++i) {
          int64_t suppressor = found[i - first];
          if (suppressor == kNone) suppressor = own.suppressor(boxes[i]);
          if (settle(i, suppressor)) {
            own.add(boxes[i], i);
            kept_before.add(boxes[i], i);
            --left;
          }
        }
      });
    }
  }
};

}  // namespace

template <class T>
std::vector<int64_t> greedy_nms(const NmsProblem<T>& problem, int64_t* match) {
  const std::vector<int64_t> ranked = candidates_by_score(problem);
  const int64_t n = static_cast<int64_t>(ranked.size());
  std::vector<int64_t> grouped, starts{0};  // grouped: ranks
  if (problem.groups != nullptr) {
    std::vector<uint64_t> group_of(n);  // by rank
    for (int64_t i = 0; i < n; ++i) {
      group_of[i] = static_cast<uint64_t>(problem.groups[ranked[i]]);
    }
    grouped.resize(n);
    std::iota(grouped.begin(), grouped.end(), 0);
    stable_sort_by(grouped, [&](int64_t rank) { return group_of[rank]; });
    for (int64_t i = 1; i < n; ++i) {
      if (group_of[grouped[i]] != group_of[grouped[i - 1]]) starts.push_back(i);
    }
  }
  const auto rank_at = [&](int64_t i) { return grouped.empty() ? i : grouped[i]; };
  const auto row_at = [&](int64_t i) { return ranked[rank_at(i)]; };
  std::vector<Box<T>> boxes(n);
  for (int64_t i = 0; i < n; ++i) boxes[i] = problem.boxes[row_at(i)];

  std::vector<uint8_t> kept(n);
  std::vector<int64_t> suppressors(match == nullptr ? 0 : n);
  const Walk<T> walk{boxes, problem.iou_threshold, problem.limit, kept,
                     match == nullptr ? nullptr : &suppressors};
  const int64_t groups = static_cast<int64_t>(starts.size());
  starts.push_back(n);
  // A huge group has all threads, and so has an only one; the others share them by candidates.
  std::vector<int64_t> others;
  for (int64_t g = 0; g < groups; ++g) {
    if (groups == 1 || starts[g + 1] - starts[g] >= kHugeGroup) {
      walk.group(starts[g], starts[g + 1]);
    } else {
      others.push_back(g);
    }
  }
  torch::stable::parallel_for(0, others.empty() ? 0 : n, 1024, [&](int64_t begin, int64_t end) {
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
    if (by_rank[rank]) rows.push_back(ranked[rank]);
  }
  return rows;
}

template std::vector<int64_t> greedy_nms(const NmsProblem<float>&, int64_t*);
template std::vector<int64_t> greedy_nms(const NmsProblem<double>&, int64_t*);

}  // namespace focaldet
