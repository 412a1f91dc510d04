// Values of csrc/math/box_loss.h; built and run by test_box_loss.py.
//
//   box_loss_values float|double KIND BETA
//
// KIND is a number of BoxLoss. Reads boxes from standard input, the numbers of a line being the
// offsets, the anchor and the ground truth, 4 each; writes the loss and its 4 slopes for each.
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "math/box_loss.h"

using namespace focaldet;

template <class T>
void run(BoxLoss kind, double beta) {
  double n[12];
  while (true) {
    for (double& each : n) {
      if (std::scanf("%lf", &each) != 1) return;
    }
    const auto box = [&](int i) {
      return Box<T>{static_cast<T>(n[i]), static_cast<T>(n[i + 1]), static_cast<T>(n[i + 2]),
                    static_cast<T>(n[i + 3])};
    };
    const BoxTerm<T> term = box_loss(kind, static_cast<T>(beta), box(0), box(4), box(8));
    std::printf("%.17g", static_cast<double>(term.loss));
    for (const T slope : term.grad) std::printf(" %.17g", static_cast<double>(slope));
    std::printf("\n");
  }
}

int main(int, char** argv) {
  const auto kind = static_cast<BoxLoss>(std::atoi(argv[2]));
  const double beta = std::atof(argv[3]);
  std::strcmp(argv[1], "float") == 0 ? run<float>(kind, beta) : run<double>(kind, beta);
  return 0;
}
