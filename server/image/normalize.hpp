// Pixels to the vision tower's input.
#pragma once

#include <span>

#include "opencv2/core/mat.hpp"

namespace cogserve::image {

// Writes (pixel / 255 - mean) / std of `rgb` (CV_8UC3) to `chw`, [3, rows, cols] floats, which must
// have that size. Mean and std are CLIP's. Each step is rounded to float as torchvision's ToTensor
// and Normalize round it, so the result equals theirs in every bit.
void to_pixels(const cv::Mat& rgb, std::span<float> chw);

}  // namespace cogserve::image
