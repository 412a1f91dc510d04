// Exact non-maximum suppression of a batch of images on the device (nms.cu), as post-processing
// uses it, too.
#pragma once

#include "../stable.h"

namespace focaldet {

// boxes [images, n, 4], scores and groups (int64, none: one group an image) [images, n], of any
// floating dtypes. Candidates are the scores above the threshold, or all but NaN without one.
// Returns kept, int64 [images, limit]: rows by falling score, ties by the lower row, -1 past the
// count; and counts, int64 [images]. `match`, int64 [images, n] and only without a limit below n,
// becomes for each row the best kept row that suppresses it, itself for a kept one, -1 for no
// candidate. Fixed number of launches, no synchronisation.
std::tuple<Tensor, Tensor> suppress_images(const Tensor& boxes, const Tensor& scores,
                                           const std::optional<Tensor>& groups,
                                           double iou_threshold,
                                           std::optional<double> score_threshold, int64_t limit,
                                           const std::optional<Tensor>& match = std::nullopt);

}  // namespace focaldet
