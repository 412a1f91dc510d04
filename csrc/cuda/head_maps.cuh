// The host's side of maps.cuh: what a list of raw maps must be, in which layout each one is, and
// where its gradient goes.
#pragma once

#include "maps.cuh"

namespace focaldet {

using Tensors = std::vector<Tensor>;
constexpr const char* kOp = "retinanet_loss";

// Are the elements in the order in which these dimensions count, the last one fastest?
inline bool laid_out(const Tensor& map, std::initializer_list<int64_t> order) {
  if (map.numel() == 0) return true;
  int64_t expected = 1;
  for (const int64_t* d = order.end(); d != order.begin();) {
    --d;
    if (map.size(*d) != 1 && map.stride(*d) != expected) return false;
    expected *= map.size(*d);
  }
  return true;
}
inline bool is_planar(const Tensor& map) { return laid_out(map, {0, 1, 2, 3}); }
inline bool is_packed(const Tensor& map) { return laid_out(map, {0, 2, 3, 1}); }

enum class Gradient { none, fresh, overwrite };

// The maps of one kind as kernels read them, and where their gradients go.
struct HeadMaps {
  Tensors in, out;
  int64_t channels;  // per anchor
  unsigned planar = 0;

  HeadMaps(const Tensors& maps, const Tensors& like, int64_t cells, Gradient gradient)
      : channels(maps[0].size(1) / cells) {
    FD_CHECK(maps[0].size(1) == channels * cells, kOp, ": channels must be a multiple of the ",
             cells, " cell anchors");
    FD_CHECK(channels < kMostChannels, kOp, ": too many channels: ", channels);
    for (size_t l = 0; l < maps.size(); ++l) {
      const Tensor& map = maps[l];
      FD_CHECK(map.dim() == 4 && map.scalar_type() == maps[0].scalar_type() &&
                   map.size(1) == maps[0].size(1),
               kOp, ": maps must be [B, channels, H, W] of one dtype");
      for (const int64_t d : {0, 2, 3}) {
        FD_CHECK(map.size(d) == like[l].size(d) && map.size(0) == like[0].size(0), kOp,
                 ": the maps of a level differ in size");
      }
      const bool dense_map = is_planar(map) || is_packed(map);
      FD_CHECK(dense_map || gradient != Gradient::overwrite, kOp,
               ": maps to overwrite must be contiguous or channels_last");
      in.push_back(dense_map ? map : torch::stable::contiguous(map));
      if (!is_packed(in.back())) planar |= 1u << l;
      if (gradient == Gradient::fresh) out.push_back(torch::stable::empty_like(in.back()));
      if (gradient == Gradient::overwrite) out.push_back(map);
    }
  }

  // blocks_of(positions, planar): the blocks for one image of a level. Returns those of all too.
  template <class T, class BlocksOf>
  std::pair<Maps<T>, int64_t> table(const GridParams& grid, BlocksOf&& blocks_of) const {
    Maps<T> maps{grid.levels, planar, grid.cells, channels, grid.total, {}};
    int64_t blocks = 0;
    for (int l = 0; l < grid.levels; ++l) {
      const int64_t positions = in[l].size(2) * in[l].size(3);
      const int64_t per_image = blocks_of(positions, (planar >> l & 1) != 0);
      Tensor gradient = out.empty() ? in[l] : out[l];
      maps.level[l] = {in[l].const_data_ptr<T>(),
                       out.empty() ? nullptr : gradient.mutable_data_ptr<T>(),
                       positions,
                       grid.level[l].first,
                       blocks,
                       per_image};
      blocks += per_image * in[l].size(0);
    }
    return {maps, blocks};
  }
};

// Checks, too, that they are maps.
inline std::vector<int64_t> feature_sizes(const Tensors& maps) {
  std::vector<int64_t> sizes;
  for (const Tensor& map : maps) {
    FD_CHECK(map.dim() == 4, kOp, ": maps must be [B, channels, H, W]");
    sizes.insert(sizes.end(), {map.size(2), map.size(3)});
  }
  return sizes;
}

}  // namespace focaldet
