// The box loss of raw delta maps for the foreground anchors, with its gradient in the same pass.
//
// A thread per anchor, in the order of memory: it reads the match, for the foreground four deltas
// and the box, and writes four gradients, which are 0 elsewhere.
// Bytes, with S the size of the maps: 4 per anchor, S for the gradient. Operations: some 100 per
// foreground anchor for smooth L1, about 1000 for the losses of overlap.
#pragma once

#include "maps.cuh"

namespace focaldet {

constexpr int kMapBoxThreads = 256;
constexpr int kAnchorsPerThread = 4;

inline int64_t box_blocks(int64_t positions, int64_t cells) {
  return blocks_for(positions * cells, kMapBoxThreads * kAnchorsPerThread);
}

template <class C>
struct BoxTruth {
  const int32_t* match;  // [images, anchors]
  const int64_t* splits;
  const C* boxes;  // [num_boxes, 4]
  BoxLoss kind;
  C beta;
};

template <class T, bool kGradient>
__global__ void __launch_bounds__(kMapBoxThreads, 1)
    map_boxes(const GridParams grid, const Maps<T> maps, const BoxTruth<compute_t<T>> truth,
              const LossScale<compute_t<T>> scale, double* partial) {
  using C = compute_t<T>;
  Pack<float>* cells = dynamic_shared<Pack<float>>();
  stage_cells(grid, cells);
  __syncthreads();
  const MapBlock at(maps);
  const typename Maps<T>::Level& level = maps.level[at.level];
  const int64_t positions = level.positions, anchors = positions * maps.cells;
  const bool planar = has(maps.planar, at.level);
  const C factor = kGradient ? scale.gradient(at.image) : C(1);
  const T* in = level.in + 4 * at.image * anchors;
  T* out = kGradient ? level.out + 4 * at.image * anchors : nullptr;
  const int32_t* match = truth.match + at.image * maps.anchors + level.first;

  double sum = 0;
  for (int j = 0; j < kAnchorsPerThread; ++j) {
    const int64_t i = (at.block * kAnchorsPerThread + j) * kMapBoxThreads + threadIdx.x;
    if (i >= anchors) break;
    int64_t anchor = i, first = 4 * i, step = 1;
    if (planar) {
      const int64_t cell = i / positions, position = i - cell * positions;
      anchor = position * maps.cells + cell;
      first = 4 * cell * positions + position;
      step = positions;
    }
    BoxTerm<C> term{C(0), {C(0), C(0), C(0), C(0)}};
    if (const int32_t row = match[anchor]; row >= 0) {
      const auto delta = [&](int c) { return static_cast<C>(in[first + c * step]); };
      // Matched rows are within memory, and so is what they are counted from: see match.cu.
      const int64_t from = truth.splits[at.image] < 0 ? 0 : truth.splits[at.image];
      const C* gt = truth.boxes + 4 * (from + row);
      const Box<float> box = anchor_at(grid, cells, GridPlace(grid, level.first + anchor));
      term = box_loss(truth.kind, truth.beta, Box<C>{delta(0), delta(1), delta(2), delta(3)},
                      Box<C>{C(box.x1), C(box.y1), C(box.x2), C(box.y2)},
                      Box<C>{gt[0], gt[1], gt[2], gt[3]});
      sum += static_cast<double>(term.loss);
      for (C& slope : term.grad) slope *= factor;
    }
    if (kGradient) {
      for (int c = 0; c < 4; ++c) out[first + c * step] = static_cast<T>(term.grad[c]);
    }
  }
  const double total = block_sum<kMapBoxThreads>(sum);
  if (threadIdx.x == 0) {
    partial[blockIdx.x] = total / static_cast<double>(scale.divisor(at.image));
  }
}
static_assert(sizeof(GridParams) + sizeof(Maps<double>) + sizeof(BoxTruth<double>) +
                      sizeof(LossScale<double>) + sizeof(double*) <=
                  4096,
              "kernel parameters of every driver");

}  // namespace focaldet
