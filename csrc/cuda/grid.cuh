// An anchor grid as kernel parameters, so that nothing is copied to the device, and an anchor from
// its flat index.
#pragma once

#include "../anchor_grid.h"
#include "launch.cuh"

namespace focaldet {

constexpr int kMaxLevels = 8;
constexpr int kMaxCells = 192;  // over all levels; keeps the parameters below 4 KB

// What AnchorTable holds, by value.
struct GridParams {
  struct Level {
    AnchorLevel grid;
    int64_t first;  // flat index of its first anchor
  };
  int64_t total, cells;  // anchors in all, anchors per position
  int levels;
  Level level[kMaxLevels];
  Pack<float> cell[kMaxCells];  // level by level

  int64_t cell_bytes() const { return levels * cells * static_cast<int64_t>(sizeof(Pack<float>)); }
};
static_assert(sizeof(GridParams) <= 3840, "kernel parameters of every driver: 4 KB in all");

inline GridParams grid_params(const AnchorTable& table, const char* op) {
  const int64_t levels = static_cast<int64_t>(table.levels.size());
  FD_CHECK(levels <= kMaxLevels && levels * table.cells <= kMaxCells, op, ": on CUDA at most ",
           kMaxLevels, " levels and ", kMaxCells, " cell anchors over all levels, not ", levels,
           " and ", levels * table.cells);
  GridParams params{table.count(), table.cells, static_cast<int>(levels), {}, {}};
  for (int64_t l = 0; l < levels; ++l) {
    const AnchorTable::Level& level = table.levels[l];
    for (int64_t a = 0; a < table.cells; ++a) {
      std::copy_n(level.cell(a), 4, params.cell[l * table.cells + a].items);
    }
    params.level[l] = {level.grid, level.first};
  }
  return params;
}

// Lanes of a warp want different cell anchors, which parameter memory serves one at a time: the
// block copies them to shared memory of cell_bytes. A barrier must follow.
__device__ __forceinline__ void stage_cells(const GridParams& params, Pack<float>* cells) {
  for (int i = threadIdx.x; i < params.levels * params.cells; i += blockDim.x) {
    cells[i] = params.cell[i];
  }
}

struct GridPlace {
  int level;
  int64_t position, cell;  // position: y * width + x

  __device__ __forceinline__ GridPlace(const GridParams& params, int64_t anchor) : level(0) {
    while (level + 1 < params.levels && anchor >= params.level[level + 1].first) ++level;
    anchor -= params.level[level].first;
    position = anchor / params.cells;
    cell = anchor - position * params.cells;
  }
};

__device__ __forceinline__ Box<float> anchor_at(const GridParams& params, const Pack<float>* cells,
                                                const GridPlace& place) {
  const AnchorLevel& level = params.level[place.level].grid;
  const int64_t y = place.position / level.width, x = place.position - y * level.width;
  return anchor_at(level, y, x, cells[place.level * params.cells + place.cell].items);
}

}  // namespace focaldet
