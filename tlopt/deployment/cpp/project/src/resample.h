// Resizing to the bit as Pillow does it.
#pragma once

#include <string>

#include "image.h"

namespace tlopt {

enum class Filter { nearest, bilinear, bicubic, lanczos };

// Throws an Error for a name that is none of nearest, bilinear, bicubic and lanczos.
Filter filter_of(const std::string& name);

struct Window {
    int left, top, width, height;
};

// A window of the image as it is once resized to width x height. Only what the window shows is computed.
// columns_first: The columns are resized before the rows.
Image resized(const Image& image, int width, int height, Filter filter, const Window& window, bool columns_first);

// A part of the image as it is.
Image cropped(const Image& image, const Window& window);

}  // namespace tlopt
