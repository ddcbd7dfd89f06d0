#include "preprocess.h"

#include <algorithm>
#include <cstddef>

namespace tlopt {

namespace {

constexpr int kWidest = 64;  // ratio of the sides above which the ends of a strip are cut off before it is resized

bool is_strip(const Image& image) {
    return std::max(image.width, image.height) > std::int64_t{kWidest} * std::min(image.width, image.height);
}

// A central crop shows the middle of a strip alone. Resizing it as a whole could take gigabytes.
Image without_ends(const Image& image) {
    const std::int64_t most = std::int64_t{kWidest} * std::min(image.width, image.height);
    const int width = static_cast<int>(std::min<std::int64_t>(image.width, most));
    const int height = static_cast<int>(std::min<std::int64_t>(image.height, most));
    return cropped(image, {(image.width - width) / 2, (image.height - height) / 2, width, height});
}

// Half of what is left over; of two pixels that are equally near, the one with the even number.
int margin(int whole, int part) {
    const int left_over = whole - part, half = left_over / 2;
    return left_over % 2 == 0 ? half : half + half % 2;
}

// The longer side after the shorter one became `side` pixels; a fraction of a pixel is cut off.
int longer(int side, int longer_before, int shorter_before) {
    return static_cast<int>(static_cast<double>(std::int64_t{side} * longer_before) / shorter_before);
}

// When Pillow 13 and newer resize the columns first: more than two rows go for each column. Older ones never do.
bool loses_more_rows(const Image& image, int width, int height) {
    const int rows = image.height - height, columns = image.width - width;
    return rows > 0 && rows > columns * 2;
}

}  // namespace

Image central(const Image& given, const Parameters& parameters) {
    const int size = parameters.size, side = parameters.side;
    const bool strip = is_strip(given);
    const Image middle = strip ? without_ends(given) : Image();
    const Image& image = strip ? middle : given;
    const bool upright = image.width <= image.height;
    const int width = upright ? side : longer(side, image.width, image.height);
    const int height = upright ? longer(side, image.height, image.width) : side;
    const Window window{margin(width, size), margin(height, size), size, size};
    const bool columns_first = parameters.columns_first_if_tall && loses_more_rows(image, width, height);
    return resized(image, width, height, parameters.filter, window, columns_first);
}

Input input_of(const Image& square, const Parameters& parameters) {
    const std::int64_t size = parameters.size, batch = parameters.batch;
    const auto area = static_cast<std::size_t>(size * size), copies = static_cast<std::size_t>(batch);
    Input input;
    if (parameters.takes_pixels || parameters.channels_last) {
        input.shape = {batch, size, size, 3};
    } else {
        input.shape = {batch, 3, size, size};
    }
    if (parameters.takes_pixels) {
        for (std::size_t i = 0; i < copies; ++i) {
            input.pixels.insert(input.pixels.end(), square.pixels.begin(), square.pixels.end());
        }
        return input;
    }
    input.values.resize(area * 3 * copies);
    for (std::size_t channel = 0; channel < 3; ++channel) {
        const std::uint8_t* from = square.pixels.data() + (parameters.bgr ? 2 - channel : channel);
        const std::size_t step = parameters.channels_last ? 3 : 1;
        float* to = input.values.data() + channel * (parameters.channels_last ? 1 : area);
        const float scale = parameters.scale[channel], shift = parameters.shift[channel];
        for (std::size_t i = 0; i < area; ++i) to[i * step] = static_cast<float>(from[i * 3]) * scale + shift;
    }
    for (std::size_t i = 1; i < copies; ++i) {
        const auto one = static_cast<std::ptrdiff_t>(area * 3);
        std::copy_n(input.values.begin(), one, input.values.begin() + one * static_cast<std::ptrdiff_t>(i));
    }
    return input;
}

}  // namespace tlopt
