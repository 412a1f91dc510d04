// Every CPU operator on several threads, for ThreadSanitizer: `python tests/sanitize.py` builds and
// runs it. torch's parallel_for is replaced by std::thread, since GCC's ThreadSanitizer cannot see
// through libgomp's barriers. Results must not depend on the number of threads either.
//
// With an argument it plants a race, to show that one is reported.
#include <torch/csrc/stable/c/shim.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "../csrc/stable.h"

static int64_t threads = 1;

// Binds before libtorch's.
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

// Calls an operator with one thread and with four.
template <class... Args>
void run(const char* op, int results, const Args&... args) {
  std::vector<uint64_t> hashes[2];
  for (int turn = 0; turn < 2; ++turn) {
    threads = turn == 0 ? 1 : 4;
    StableIValue stack[sizeof...(Args) + 4] = {from(args)...};
    const std::string name = std::string("focaldet::") + op;
    TORCH_ERROR_CODE_CHECK(torch_call_dispatcher(name.c_str(), "", stack, TORCH_ABI_VERSION));
    for (int i = 0; i < results; ++i) {
      hashes[turn].push_back(hash(torch::stable::detail::to<Tensor>(stack[i])));
    }
  }
  if (hashes[0] != hashes[1]) {
    std::fprintf(stderr, "%s: four threads give other bits than one\n", op);
    std::exit(1);
  }
  std::printf("%s\n", op);
}

void run_all() {
  const std::optional<Tensor> none;
  const Tensor logits = uniform({2000, 7}, -8, 8), soft = uniform({2000, 7}, 0, 1);
  for (const Tensor& targets : {integers({2000}, -2, 6), soft}) {
    for (const double gamma : {2.0, 1.5}) {
      run("sigmoid_focal_loss", 1, logits, targets, 0.25, gamma, none, none, 0.0);
      run("sigmoid_focal_loss_sum", 1, logits, targets, 0.25, gamma, none, none, 0.1);
      run("sigmoid_focal_loss_backward", 1, soft, logits, targets, 0.25, gamma, none, none, 0.0);
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
  run("nms_padded", 2, torch::stable::reshape(many, {3, 3000, 4}),
      torch::stable::reshape(scores, {3, 3000}), integers({3, 3000}, 0, 4), 0.5, 0.1, int64_t{100});

  const std::vector<Tensor> maps{uniform({2, 2 * 5, 40, 50}, -6, 1),
                                 uniform({2, 2 * 5, 20, 25}, -6, 1)};
  const std::vector<Tensor> deltas{uniform({2, 2 * 4, 40, 50}, -1, 1),
                                   uniform({2, 2 * 4, 20, 25}, -1, 1)};
  const Tensor images = torch::stable::reshape(values({320, 400, 300, 380}), {2, 2});
  run("retinanet_postprocess", 4, maps, deltas, cells, strides, 0.5, images, 0.05, int64_t{500},
      0.5, int64_t{100});
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
