// Pillow's bicubic, bit for bit.
#pragma once

#include "opencv2/core/mat.hpp"

namespace cogserve::image {

// `rgb` (CV_8UC3) resized to [height, width]; the aspect ratio is not kept. Equal in every bit to
// `Image.resize((width, height), Image.BICUBIC)` of Pillow up to 12.x, with which the upstream
// model was trained and published: a = -0.5, the kernel widened by the shrink factor, weights of 22
// fractional bits, first along the rows and then along the columns with a rounding to 8 bits in
// between, and no pass along an axis that keeps its length. (Pillow 13.0 turned the order of the
// two passes round for pictures that shrink much more in height than in width; the rounding in
// between makes those differ by a few levels.) Single-threaded. Edges must be positive.
cv::Mat resize_bicubic(const cv::Mat& rgb, int width, int height);

}  // namespace cogserve::image
