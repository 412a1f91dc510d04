// Greedy suppression of candidates that lie in the order of nms_order.cuh: one launch for all
// images and groups, a block for each tile of 256 places, chained as the partial sums of a
// decoupled look-back are (Merrill and Garland 2016, "Single-pass Parallel Prefix Scan with
// Decoupled Look-back").
//
// A tile depends on those before it only if its first group began there. Then it goes through the
// tiles from that beginning on, in order, waits until each is settled and tests its own candidates
// of the group against those kept there. What a tile tells is who of it is kept, a bit each, 32 to
// a word (launch.cuh); their boxes everybody has.
//
// A chain of tiles is as slow as its links, so whatever does not need the predecessor's answer is
// done before it comes: which earlier candidates of the tile (`rivals`), and which of all
// candidates of the predecessor (`former`), would suppress each candidate, a bit each. Answers that
// are there already are taken before that, so that only candidates which are left are compared.
// A group that begins within the tile waits for nobody and is decided, and told, before that.
// From the last answer to the tile's own there are then 8 times the steps of `settle`.
//
// Bytes per candidate: 33 for its box, group, rank and flag (49 in float64), and 32 where matches
// are asked for. For each tile and each tile of the same group before it, from the second-level
// cache: 64 and 16 per box kept there. Operations: 9 per pair of a candidate and a box kept before
// it in the group, or any box up to 256 or 512 places before it; about 50 more if the two touch.
#pragma once

#include "nms_order.cuh"

namespace focaldet {
namespace {

constexpr int kTile = 256, kTileWords = kTile / kWarp;
template <class T>
constexpr int kTilesAtOnce = sizeof(T) == 4 ? 3 : 2;  // on a processor: for more, nvcc would spill
constexpr Word kSettled = Word{1} << kWarp;           // above the bits

inline int64_t tiles_of(int64_t n) { return (n + kTile - 1) / kTile; }

// `kept` has a byte per rank, in rows of tiles * kTile. `match`, if not null, becomes for each row
// the best-ranked kept row that suppresses it, itself for a kept one, -1 for no candidate. A group
// needs no more than `limit` kept boxes.
template <class T>
struct Suppression {
  Order order;
  const T* boxes;  // by place; NaN where there is no candidate
  int64_t images, tiles, limit;
  T threshold;
  Word* words;  // of the tiles, and a last one for the tickets
  uint8_t* kept;
  int64_t* match;
};

__device__ __forceinline__ unsigned sign_word(float x) { return float_to_bits(x); }
__device__ __forceinline__ unsigned sign_word(double x) {
  uint64_t bits;
  memcpy(&bits, &x, sizeof bits);
  return static_cast<unsigned>(bits >> 32);
}

// Which of 32 boxes may touch this one, as most do not. An IoU above a threshold that is at least 0
// needs an intersection whose sides are positive. So none of four differences may be negative, and
// as a difference of unequal numbers is never rounded to 0, their signs tell: nobody is turned away
// who could have been suppressed. Differences, because comparisons run at half their rate.
template <class T>
__device__ __forceinline__ unsigned touching(const Box<T>* boxes, const Box<T>& own) {
  constexpr int kAtATime = 8;
  unsigned apart = 0;
#pragma unroll 1
  for (int first = kWarp - kAtATime; first >= 0; first -= kAtATime) {
#pragma unroll
    for (int i = kAtATime - 1; i >= 0; --i) {
      const Box<T> box = boxes[first + i];
      const unsigned signs = sign_word(own.x2 - box.x1) | sign_word(box.x2 - own.x1) |
                             sign_word(own.y2 - box.y1) | sign_word(box.y2 - own.y1);
      apart = apart << 1 | signs >> 31;
    }
  }
  return ~apart;
}

// Touches nothing. (A NaN has the sign of one that does.)
template <class T>
__device__ __forceinline__ Box<T> box_apart() {
  constexpr T kInfinity = std::numeric_limits<T>::infinity();
  return {kInfinity, kInfinity, -kInfinity, -kInfinity};
}

template <class T>
__device__ __forceinline__ bool beats(const Box<T>& kept, const Box<T>& other, T threshold) {
  const T kept_area = area(kept), other_area = area(other);
  return may_suppress(kept, kept_area, other, other_area, threshold) &&
         suppresses(kept, kept_area, other, other_area, threshold);
}

__device__ __forceinline__ int lowest(unsigned mask) { return __ffs(static_cast<int>(mask)) - 1; }

// Which of 32 boxes, of those in `mask`, would suppress this one.
template <class T>
__device__ __forceinline__ unsigned rivals_among(const Box<T>* boxes, unsigned mask,
                                                 const Box<T>& own, T threshold) {
  if (mask == 0) return 0;
  unsigned rivals = 0;
  for (unsigned near = touching(boxes, own) & mask; near != 0; near &= near - 1) {
    const int i = lowest(near);
    if (beats(boxes[i], own, threshold)) rivals |= 1u << i;
  }
  return rivals;
}

// The first of 32 kept boxes that suppresses this one, or -1.
template <class T>
__device__ __forceinline__ int first_rival(const Box<T>* boxes, const Box<T>& own, T threshold) {
  for (unsigned near = touching(boxes, own); near != 0; near &= near - 1) {
    const int i = lowest(near);
    if (beats(boxes[i], own, threshold)) return i;
  }
  return -1;
}

// Which of a warp's candidates, in falling order of score by lane, are kept. Each knows its rivals,
// the lanes before it that would suppress it. Everyone without an undecided rival is decided at
// once, at least the first of all, so there are as many rounds as links in the longest chain.
__device__ __forceinline__ unsigned settle(bool alive, unsigned rivals, int lane) {
  unsigned kept = 0, open = __ballot_sync(kAllLanes, alive);
  while (open != 0) {
    const unsigned winners = __ballot_sync(kAllLanes, has(open, lane) && (rivals & open) == 0);
    kept |= winners;
    const bool beaten = (rivals & winners) != 0;
    open = __ballot_sync(kAllLanes, has(open & ~winners, lane) && !beaten);
  }
  return kept;
}

// The lanes from `first` on, which may lie before or behind the warp.
__device__ __forceinline__ unsigned lanes_from(int64_t first) {
  return first <= 0 ? kAllLanes : first >= kWarp ? 0u : kAllLanes << first;
}

// Where in the tile this thread's group begins, 0 if it does before.
__device__ __forceinline__ int group_in_tile(bool head, unsigned* heads) {
  const int thread = threadIdx.x, lane = thread % kWarp, warp = thread / kWarp;
  const unsigned mask = __ballot_sync(kAllLanes, head);
  if (lane == 0) heads[warp] = mask;
  __syncthreads();
  unsigned before = mask & (kAllLanes >> (kWarp - 1 - lane));
  int word = warp;
  while (before == 0 && word > 0) before = heads[--word];
  return before == 0 ? 0 : word * kWarp + kWarp - 1 - __clz(static_cast<int>(before));
}

template <class T>
__global__ void __launch_bounds__(kTile, kTilesAtOnce<T>) suppress_tiles(const Suppression<T> p) {
  FD_SHARED(Box<T>, tile, kTile);
  FD_SHARED(Box<T>, others, kTile);   // of the predecessor; or kept by the tile that is visited
  FD_SHARED(uint8_t, places, kTile);  // of those within their tile
  FD_SHARED(unsigned, rivals, kTileWords* kTile);
  FD_SHARED(unsigned, former, kTileWords* kTile);
  FD_SHARED(unsigned, masks, kTileWords);    // kept by the tile that is visited
  FD_SHARED(unsigned, winners, kTileWords);  // kept by this tile
  FD_SHARED(int64_t, shared_ticket, 1);
  FD_SHARED(bool, settled, 1);
  const int thread = threadIdx.x, lane = thread % kWarp, warp = thread / kWarp;

  if (thread == 0) {
    shared_ticket[0] =
        static_cast<int64_t>(atomicAdd(p.words + p.images * p.tiles * kTileWords, 1));
  }
  __syncthreads();
  const int64_t image = shared_ticket[0] % p.images, number = shared_ticket[0] / p.images;
  const Order order = p.order.of_image(image);
  const T* boxes = p.boxes + 4 * image * order.n;
  Word* words = p.words + image * p.tiles * kTileWords;
  const int64_t first = number * kTile, place = first + thread;

  const bool inside = place < order.n;
  const Box<T> own = inside ? load_box(boxes, place) : no_box<T>();
  bool alive = !has_nan(own);
  tile[thread] = own;
  const auto starts_group = [&](int64_t at) {
    return at == 0 || (order.groups != nullptr && order.groups[at] != order.groups[at - 1]);
  };
  const int begin = group_in_tile(inside && starts_group(place), winners);
  // The group that reaches into the tile, and whether this candidate is of it.
  int64_t group_begin = first;
  if (!starts_group(first)) {
    const auto same = [&](int64_t at) { return order.groups[at] == order.groups[first]; };
    group_begin = order.groups == nullptr ? 0 : first_place(0, first, same);
  }
  const bool member = group_begin < first && begin == 0;

  int64_t beaten_by = -1;   // the place of the first kept box that suppresses this one
  int64_t kept_before = 0;  // in the group, the same in every thread
  bool kept = false, compared = false;
  // Decides about the open candidates, and tells whoever follows if `final`.
  const auto resolve = [&](bool open, bool final) {
    for (int w = 0; w < kTileWords; ++w) {
      const unsigned would = open && w <= warp ? rivals[w * kTile + thread] : 0;
      if (warp == w) {
        const unsigned mask = settle(open, would, lane);
        kept = kept || has(mask, lane);
        if (lane == 0) {
          winners[w] = mask;
          if (final) atomicExch(words + number * kTileWords + w, kSettled | mask);
        }
      }
      __syncthreads();
      if (const unsigned met = would & winners[w]; met != 0) {
        open = alive = false;
        beaten_by = first + w * kWarp + lowest(met);
      }
    }
  };
  // The tiles that follow may ask for the last group alone. If it begins here, it can be decided
  // and told before the wait for those before, so that small groups make no chain of all tiles.
  const bool independent = __syncthreads_or(begin != 0);
  for (int64_t visited = group_begin / kTile;;) {
    // The further away the answer's use, the more patient the wait: the next tile in the chain
    // must not find the words busy.
    if (visited < number && thread < kTileWords) {
      const Word* at = words + visited * kTileWords + thread;
      Word word = peek(at);
      while (compared && word == 0) {
        const int64_t distance = number - 1 - visited;
        __nanosleep(static_cast<unsigned>(distance < 10 ? 100 * distance : 1000));
        word = peek(at);
      }
      const int64_t before_group = group_begin - visited * kTile - thread * kWarp;
      masks[thread] = static_cast<unsigned>(word) & lanes_from(before_group);
      const bool all = __all_sync((1u << kTileWords) - 1, word != 0);
      if (thread == 0) settled[0] = all;
    }
    if (!__syncthreads_or(member && alive)) visited = number;  // nobody is left to ask for
    const bool known = visited == number || settled[0];

    if (!compared && (independent || !known || visited + 1 >= number)) {
      compared = true;
      const bool follows = visited < number;
      if (follows) others[thread] = load_box(boxes, first - kTile + thread);
      __syncthreads();
      for (int w = 0; alive && w <= warp; ++w) {
        const unsigned earlier = w < warp ? kAllLanes : (1u << lane) - 1;
        rivals[w * kTile + thread] = rivals_among(
            tile + w * kWarp, earlier & lanes_from(begin - w * kWarp), own, p.threshold);
      }
      for (int w = 0; alive && member && follows && w < kTileWords; ++w) {
        const unsigned mask = lanes_from(group_begin - (first - kTile) - w * kWarp);
        former[w * kTile + thread] = rivals_among(others + w * kWarp, mask, own, p.threshold);
      }
      if (independent) resolve(alive && !member, true);
      if (!known) continue;
    }
    if (visited == number) break;

    int slot = 0, count = 0;
#pragma unroll
    for (int w = 0; w < kTileWords; ++w) {
      if (w < warp) slot += __popc(masks[w]);
      count += __popc(masks[w]);
    }
    kept_before += count;
    if (kept_before >= p.limit) {
      alive = alive && !member;
    } else if (visited + 1 == number) {
      for (int w = 0; member && alive && w < kTileWords; ++w) {
        const unsigned met = former[w * kTile + thread] & masks[w];
        if (met == 0) continue;
        alive = false;
        beaten_by = visited * kTile + w * kWarp + lowest(met);
      }
      break;
    } else {
      if (has(masks[warp], lane)) {
        slot += __popc(masks[warp] & ((1u << lane) - 1));
        others[slot] = load_box(boxes, visited * kTile + thread);
        places[slot] = static_cast<uint8_t>(thread);
      }
      const bool fills = thread >= count && thread < (count + kWarp - 1) / kWarp * kWarp;
      if (fills) others[thread] = box_apart<T>();
    }
    __syncthreads();
    for (int i = 0; member && alive && i < count; i += kWarp) {
      const int rival = first_rival(others + i, own, p.threshold);
      if (rival < 0) continue;
      alive = false;
      beaten_by = visited * kTile + places[i + rival];
    }
    ++visited;
  }

  resolve(alive && !kept, !independent);
  if (!inside) return;
  const int64_t rank = order.rank(place);
  p.kept[image * p.tiles * kTile + rank] = kept;
  if (p.match != nullptr) {
    const int64_t best = kept ? rank : beaten_by < 0 ? -1 : order.rank(beaten_by);
    p.match[image * order.n + order.rows[rank]] = best < 0 ? -1 : order.rows[best];
  }
}

}  // namespace
}  // namespace focaldet
