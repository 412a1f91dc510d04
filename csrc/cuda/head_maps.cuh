// The head's raw maps (../head_maps.h) as the kernels read them.
#pragma once

#include "../head_maps.h"
#include "maps.cuh"

namespace focaldet {

inline unsigned planar_levels(const HeadMaps& maps) {
  unsigned bits = 0;
  for (size_t l = 0; l < maps.planar.size(); ++l) bits |= unsigned{maps.planar[l]} << l;
  return bits;
}

// blocks_of(positions, planar): the blocks for one image of a level. Returns those of all too.
template <class T, class BlocksOf>
std::pair<Maps<T>, int64_t> kernel_maps(const HeadMaps& maps, const GridParams& grid,
                                        BlocksOf&& blocks_of) {
  FD_CHECK(maps.channels < kMostChannels, "retinanet_loss: too many channels: ", maps.channels);
  Maps<T> result{grid.levels, planar_levels(maps), grid.cells, maps.channels, grid.total, {}};
  int64_t blocks = 0;
  for (int l = 0; l < grid.levels; ++l) {
    const Tensor& map = maps.in[l];
    const int64_t positions = map.size(2) * map.size(3);
    const int64_t per_image = blocks_of(positions, maps.planar[l]);
    result.level[l] = {map.const_data_ptr<T>(),
                       maps.gradient<T>(l),
                       positions,
                       grid.level[l].first,
                       blocks,
                       per_image};
    blocks += per_image * map.size(0);
  }
  return {result, blocks};
}

}  // namespace focaldet
