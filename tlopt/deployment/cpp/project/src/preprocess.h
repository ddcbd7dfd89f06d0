// From an image to the network's input, step by step what the network was trained and measured with.
#pragma once

#include <cstdint>
#include <vector>

#include "image.h"
#include "parameters.h"

namespace tlopt {

// The network's input: one of `values` and `pixels` is filled, the other empty.
struct Input {
    std::vector<std::int64_t> shape;  // the number of images first
    std::vector<float> values;
    Bytes pixels;
};

// The shorter side resized, the central square cut out: size x size pixels.
Image central(const Image& image, const Parameters& parameters);

// `batch` times the same pixels, scaled and in the order that the network takes.
Input input_of(const Image& square, const Parameters& parameters);

}  // namespace tlopt
