// Every CPU operator on several threads, for ThreadSanitizer: `python tests/sanitize.py` builds and
// runs it. torch's parallel_for is replaced by std::thread, since GCC's ThreadSanitizer cannot see
// through libgomp's barriers. Results must not depend on the number of threads either.
//
// With an argument it plants a race, to show that one is reported.
#include <torch/csrc/stable/c/shim.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "../csrc/stable.h"

static int64_t threads = 1;

// These bind before libtorch's.
extern "C" AOTITorchError torch_get_num_threads(uint32_t* number) {
  *number = static_cast<uint32_t>(threads);
  return AOTI_TORCH_SUCCESS;
}

extern "C" AOTITorchError torch_parallel_for(int64_t begin, int64_t end, int64_t, ParallelFunc body,
                                             void* context) {
  const int64_t each = (end - begin + threads - 1) / threads;
  std::vector<std::thread> team;
  for (int64_t first = begin; first < end; first += each) {
    team.emplace_back(body, first, std::min(end, first + each), context);
  }
  for (std::thread& thread : team) thread.join();
  return AOTI_TORCH_SUCCESS;
}

namespace focaldet {
namespace {

using torch::stable::detail::from;
using Dtype = ScalarType;
std::mt19937 random_bits(0);

Tensor tensor(const std::vector<int64_t>& sizes, Dtype dtype) {
  return torch::stable::empty(sizes, dtype);
}

Tensor uniform(const std::vector<int64_t>& sizes, float low, float high) {
  Tensor result = tensor(sizes, Dtype::Float);
  float* values = result.mutable_data_ptr<float>();
  std::uniform_real_distribution<float> value(low, high);
  for (int64_t i = 0; i < result.numel(); ++i) values[i] = value(random_bits);
  return result;
}

Tensor integers(const std::vector<int64_t>& sizes, int64_t low, int64_t high) {
  Tensor result = tensor(sizes, Dtype::Long);
  int64_t* values = result.mutable_data_ptr<int64_t>();
  for (int64_t i = 0; i < result.numel(); ++i) values[i] = low + random_bits() % (high - low + 1);
  return result;
}

Tensor values(const std::vector<int64_t>& of) {
  Tensor result = tensor({static_cast<int64_t>(of.size())}, Dtype::Long);
  std::copy(of.begin(), of.end(), result.mutable_data_ptr<int64_t>());
  return result;
}

Tensor boxes(int64_t n, float extent) {
  Tensor result = uniform({n, 4}, 0, extent);
  float* box = result.mutable_data_ptr<float>();
  for (int64_t i = 0; i < n; ++i, box += 4) {
    for (int side = 0; side < 2; ++side) box[2 + side] = box[side] + 8 + box[2 + side] / 8;
  }
  return result;
}

uint64_t hash(const Tensor& tensor) {
  const auto* bytes = static_cast<const unsigned char*>(tensor.data_ptr());
  const int64_t size = tensor.numel() * tensor.element_size();
  uint64_t result = 14695981039346656037u;  // FNV-1a
  for (int64_t i = 0; i < size; ++i) result = (result ^ bytes[i]) * 1099511628211u;
  return result;
}

// The stack with an operator's results.
template <class... Args>
std::array<StableIValue, sizeof...(Args) + 4> call(const char* op, const Args&... args) {
  std::array<StableIValue, sizeof...(Args) + 4> stack = {from(args)...};
  const std::string name = std::string("focaldet::") + op;
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher(name.c_str(), "", stack.data(), TORCH_ABI_VERSION));
  return stack;
}

using Hashes = std::vector<uint64_t>;

Hashes hashes_of(const StableIValue* results, int count) {
  Hashes hashes;
  for (int i = 0; i < count; ++i) {
    hashes.push_back(hash(torch::stable::detail::to<Tensor>(results[i])));
  }
  return hashes;
}

// Works with one thread and with four.
template <class Work>
void compare(const char* op, const Work& work) {
  threads = 1;
  const Hashes expected = work();
  threads = 4;
  if (work() != expected) {
    std::fprintf(stderr, "%s: four threads give other bits than one\n", op);
    std::exit(1);
  }
  std::printf("%s\n", op);
}

template <class... Args>
void run(const char* op, int results, const Args&... args) {
  compare(op, [&] { return hashes_of(call(op, args...).data(), results); });
}

using Tensors = std::vector<Tensor>;

Tensors cloned(const Tensors& maps) {
  Tensors result;
  for (const Tensor& map : maps) result.push_back(torch::stable::clone(map));
  return result;
}

Tensors channels_last(const Tensors& maps) {
  Tensors result;
  for (const Tensor& map : maps) {
    const Tensor rows = uniform({map.size(0), map.size(2), map.size(3), map.size(1)}, -6, 1);
    result.push_back(torch::stable::transpose(torch::stable::transpose(rows, 1, 3), 2, 3));
  }
  return result;
}

// retinanet_loss without and with gradients. These are compared where they overwrite the maps: to
// retinanet_loss_and_gradient, which writes them elsewhere, torch_call_dispatcher is no way, since
// it takes the types of results, here tensors and lists, in reverse order.
template <class... Args>
void run_losses(const Tensors& maps, const Tensors& deltas, const Args&... args) {
  const std::optional<Tensor> one;
  run("retinanet_loss", 3, maps, deltas, args...);
  const char* op = "retinanet_loss_overwrite";
  compare(op, [&] {
    const Tensors logits = cloned(maps), boxes = cloned(deltas);
    Hashes hashes = hashes_of(call(op, logits, boxes, args..., one, one).data(), 3);
    for (const Tensors* written : {&logits, &boxes}) {
      for (const Tensor& gradient : *written) hashes.push_back(hash(gradient));
    }
    return hashes;
  });
}

void run_all() {
  const std::optional<Tensor> none;
  const std::string form = "focal";
  const Tensor logits = uniform({2000, 7}, -8, 8), soft = uniform({2000, 7}, 0, 1);
  for (const Tensor& targets : {integers({2000}, -2, 6), soft}) {
    for (const double gamma : {2.0, 1.5}) {
      const auto focal = [&](const char* op, int results, double smoothing, const auto&... more) {
        run(op, results, logits, targets, 0.25, gamma, none, none, smoothing, form, more...);
      };
      focal("sigmoid_focal_loss", 1, 0.0);
      focal("sigmoid_focal_loss_sum", 1, 0.1);
      focal("sigmoid_focal_loss_sum_and_gradient", 2, 0.1, none);
      run("sigmoid_focal_loss_backward", 1, soft, logits, targets, 0.25, gamma, none, none, 0.0,
          form);
    }
  }

  for (const double gamma : {2.0, 1.5}) {
    const Tensor labels = integers({2000}, -2, 6), upstream = uniform({2000}, 0, 1);
    run("softmax_focal_loss", 1, logits, labels, 0.25, gamma, none);
    run("softmax_focal_loss_backward", 1, upstream, logits, labels, 0.25, gamma, none);
  }

  const std::vector<double> cells{-16, -16, 16, 16, -8,  -20, 8,  20,
                                  -32, -32, 32, 32, -16, -40, 16, 40};
  const std::vector<int64_t> sizes{40, 50, 20, 25}, strides{8, 8, 16, 16};
  run("generate_anchors", 1, logits, cells, sizes, strides, 0.5);
  const Tensor truth = boxes(30, 300), splits = values({0, 12, 12, 30});
  for (const char* rule : {"torchvision", "mmdet", "none"}) {
    const auto match = [&](const char* op) {
      run(op, 1, none, cells, sizes, strides, 0.5, truth, splits, 0.5, 0.4, std::string(rule));
    };
    match("match_anchors");
    match("count_foreground");
  }

  const Tensor many = boxes(9000, 400), scores = uniform({9000}, 0, 1);
  run("box_iou", 1, truth, many);
  run("encode_boxes", 1, many, many);
  run("decode_boxes", 1, uniform({9000, 4}, -1, 1), many);
  run("nms", 1, many, scores, 0.5);
  run("batched_nms", 1, many, scores, integers({9000}, 0, 19), 0.5);
  // So many in one group are walked in blocks, all threads at once.
  run("nms", 1, boxes(40000, 3000), uniform({40000}, 0, 1), 0.5);
  run("nms_match", 2, many, scores, std::optional<Tensor>(), 0.5);
  run("soft_nms", 2, many, scores, std::optional<Tensor>(integers({9000}, 0, 19)), 0.3, 0.5, 0.001,
      std::string("gaussian"));
  run("nms_padded", 2, torch::stable::reshape(many, {3, 3000, 4}),
      torch::stable::reshape(scores, {3, 3000}), std::optional<Tensor>(integers({3, 3000}, 0, 4)),
      0.5, 0.1, int64_t{100});

  const Tensors maps{uniform({2, 2 * 5, 40, 50}, -6, 1), uniform({2, 2 * 5, 20, 25}, -6, 1)};
  const Tensors deltas{uniform({2, 2 * 4, 40, 50}, -1, 1), uniform({2, 2 * 4, 20, 25}, -1, 1)};
  const Tensor labels = integers({30}, 0, 4), by_image = values({0, 12, 30});
  const auto losses = [&](const Tensors& logits, const Tensors& boxes, const char* box_loss) {
    run_losses(logits, boxes, cells, strides, 0.5, truth, labels, by_image, 0.5, 0.4,
               std::string("torchvision"), 0.25, 2.0, none, std::string(box_loss), 0.1, none, true);
  };
  losses(maps, deltas, "smooth_l1");
  losses(channels_last(maps), channels_last(deltas), "ciou");
  const Tensor images = torch::stable::reshape(values({320, 400, 300, 380}), {2, 2});
  for (const auto& [logits, offsets] :
       {std::pair(maps, deltas), std::pair(channels_last(maps), channels_last(deltas))}) {
    for (const double threshold : {0.05, 0.2}) {  // far more than topk, and about as many
      run("retinanet_postprocess", 4, logits, offsets, cells, strides, 0.5, images, threshold,
          int64_t{500}, 0.5, int64_t{100}, false);
    }
  }
}

void race() {
  int64_t sum = 0;
  threads = 4;
  torch::stable::parallel_for(0, 1000, 1, [&](int64_t begin, int64_t end) { sum += end - begin; });
  std::printf("%lld\n", static_cast<long long>(sum));
}

}  // namespace
}  // namespace focaldet

int main(int count, char**) {
  count > 1 ? focaldet::race() : focaldet::run_all();
  return 0;
}
