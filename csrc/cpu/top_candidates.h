// The best k candidates of one level of one image, found by several threads in memory for 2 k,
// or for all if these are fewer.
//
// Candidates come in batches. Whenever 2 k are there, a selection (linear on average) leaves the
// best k of them and raises the bar: a score below the k-th best so far has no chance any more, and
// no logit that scores less is reported again. Of n candidates in random order about
// k (1 + ln(n / k)) arrive here. The order is total, so what is left at the end depends neither on
// the number of threads nor on the order of their batches.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <limits>
#include <mutex>
#include <vector>

#include "../score_boundary.h"
#include "simd.h"

namespace focaldet {

struct Candidate {
  float score;
  int64_t index;  // flat, within the image: levels in order, then ((y W + x) A + a) K + k
};

// Without branches, which sorting would mispredict.
struct Better {
  bool operator()(const Candidate& a, const Candidate& b) const {
    return (a.score > b.score) | ((a.score == b.score) & (a.index < b.index));
  }
};
struct Worse {
  bool operator()(const Candidate& a, const Candidate& b) const { return Better()(b, a); }
};

class TopCandidates {
 public:
  // The best `most` (at least 1) of at most `all`; `boundary`: the smallest logit of any interest.
  TopCandidates(int64_t most, int64_t all, float boundary)
      : most_(std::min(most, all)), room_(std::min(2 * most_, all)), boundary_(boundary) {}

  // The smallest logit that may still be among the best. It only rises.
  float boundary() const { return boundary_.load(std::memory_order_relaxed); }

  void add(const Candidate* found, int64_t n) {
    if (n == 0) return;
    const std::lock_guard<std::mutex> lock(adding_);
    best_.reserve(room_);
    for (int64_t i = 0; i < n; ++i) {
      if (!Better()(found[i], bar_)) continue;
      best_.push_back(found[i]);
      if (size() == 2 * most_) cut();
    }
  }

  // When all have been added: hands them over, the best first, until empty().
  void begin() {
    if (size() > most_) cut();
    std::make_heap(best_.begin(), best_.end(), Worse());
  }
  bool empty() const { return best_.empty(); }
  const Candidate& front() const { return best_.front(); }
  void pop() {
    std::pop_heap(best_.begin(), best_.end(), Worse());
    best_.pop_back();
  }

 private:
  int64_t size() const { return static_cast<int64_t>(best_.size()); }

  void cut() {
    std::nth_element(best_.begin(), best_.begin() + (most_ - 1), best_.end(), Better());
    best_.resize(most_);
    bar_ = best_.back();
    // Scores decide, and several logits may have the same: the smallest that has the bar's.
    const float below = std::nextafter(bar_.score, -std::numeric_limits<float>::infinity());
    boundary_.store(boundary_logit(below), std::memory_order_relaxed);
  }

  const int64_t most_, room_;
  std::atomic<float> boundary_;
  std::mutex adding_;
  std::vector<Candidate> best_;
  // The last of the best at the last cut.
  Candidate bar_{-std::numeric_limits<float>::infinity(), std::numeric_limits<int64_t>::max()};
};

// What one thread finds, on its way to the others of its level.
class CandidateBatch {
 public:
  CandidateBatch(TopCandidates& top, float threshold) : top_(top), threshold_(threshold) {}

  void add(float logit, int64_t index) {
    logits_[size_] = logit;
    found_[size_++].index = index;
    if (size_ == kSize) flush();
  }

  // Those whose score exceeds the threshold: a NaN may be among the logits.
  void flush() {
    vectorised([&]() FD_SIMD_LAMBDA {
      for (int64_t i = 0; i < size_; ++i) logits_[i] = sigmoid(logits_[i]);
    });
    int64_t passed = 0;
    for (int64_t i = 0; i < size_; ++i) {
      found_[passed] = {logits_[i], found_[i].index};
      passed += logits_[i] > threshold_;
    }
    top_.add(found_, passed);
    size_ = 0;
  }

 private:
  static constexpr int64_t kSize = 512;
  TopCandidates& top_;
  const float threshold_;
  int64_t size_ = 0;
  float logits_[kSize];
  Candidate found_[kSize];
};

}  // namespace focaldet
