// The three codecs behind decode, one file each. Each fills `rgb`, a zeroed CV_8UC3 of the size
// that preflight read, and returns false if the data are corrupt, incomplete or of another size;
// the pixels are then worthless.
#pragma once

#include "opencv2/core/mat.hpp"
#include "server/image/bytes.hpp"

namespace cogserve::image {

bool decode_jpeg(Bytes bytes, cv::Mat& rgb);
bool decode_png(Bytes bytes, cv::Mat& rgb);
bool decode_webp(Bytes bytes, cv::Mat& rgb);

}  // namespace cogserve::image
