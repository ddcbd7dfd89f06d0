// Pillow resizes 8-bit images in two passes, along the rows and down the columns, in integers. The weights of a pixel are
// those of the filter, stretched by the factor where the image shrinks, with a sum of 1; they are rounded to 22 bits
// after the point. Each pass rounds to 8 bits. Doubles are computed in Pillow's order of operations, so that
// they round alike: compile without -ffast-math.
#include "resample.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace tlopt {

namespace {

constexpr int kBits = 22;
constexpr std::int32_t kHalf = 1 << (kBits - 1);
constexpr double kPi = 3.14159265358979323846;

double triangle(double x) {
    x = std::fabs(x);
    return x < 1 ? 1 - x : 0;
}

// R. Keys, "Cubic convolution interpolation for digital image processing", 1981, with a = -1/2.
double cubic(double x) {
    const double a = -0.5;
    x = std::fabs(x);
    if (x < 1) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
    if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
    return 0;
}

double sinc(double x) {
    if (x == 0) return 1;
    x *= kPi;
    return std::sin(x) / x;
}

double windowed_sinc(double x) {
    return x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0;
}

struct Kernel {
    double (*weight)(double);
    double support;
};

Kernel kernel_of(Filter filter) {
    switch (filter) {
        case Filter::bilinear: return {triangle, 1};
        case Filter::lanczos: return {windowed_sinc, 3};
        default: return {cubic, 2};
    }
}

// The source pixels that one pixel of the result is made of.
struct Taps {
    int first, count;
    const std::int32_t* weights;
};

// The taps of the pixels first .. first + count - 1 of a line that is resized from `source` to `target` pixels.
class Weights {
public:
    Weights(int source, int target, int first, int count, const Kernel& kernel) {
        const double scale = static_cast<double>(source) / target;
        const double stretch = std::max(scale, 1.0);
        const double support = kernel.support * stretch;
        most_ = static_cast<std::size_t>(std::ceil(support)) * 2 + 1;
        values_.resize(most_ * static_cast<std::size_t>(count));
        std::vector<double> exact(most_);
        const double inverse = 1.0 / stretch;
        for (int i = 0; i < count; ++i) {
            const double center = (first + i + 0.5) * scale;
            const int begin = std::max(static_cast<int>(center - support + 0.5), 0);
            const int end = std::min(static_cast<int>(center + support + 0.5), source);
            double sum = 0;
            for (int x = begin; x < end; ++x) {
                const double weight = kernel.weight((x - center + 0.5) * inverse);
                exact[static_cast<std::size_t>(x - begin)] = weight;
                sum += weight;
            }
            std::int32_t* to = values_.data() + static_cast<std::size_t>(i) * most_;
            for (int x = 0; x < end - begin; ++x) {
                const double weight = exact[static_cast<std::size_t>(x)];
                to[x] = fixed(sum != 0 ? weight / sum : weight);
            }
            places_.push_back({begin, end - begin});
        }
    }

    Taps operator[](int i) const {
        const auto at = static_cast<std::size_t>(i);
        return {places_[at].begin, places_[at].count, values_.data() + at * most_};
    }

private:
    struct Place {
        int begin, count;
    };

    static std::int32_t fixed(double weight) {
        const double scaled = weight * (1 << kBits);
        return static_cast<std::int32_t>(weight < 0 ? scaled - 0.5 : scaled + 0.5);
    }

    std::size_t most_ = 0;
    std::vector<std::int32_t> values_;
    std::vector<Place> places_;
};

std::uint8_t rounded(std::int32_t sum) {
    return static_cast<std::uint8_t>(std::clamp(sum >> kBits, 0, 255));
}

// One pass along the rows: those of the image from `first_row` on, whose columns are counted from `first_column` on.
Image along_rows(const Image& image, int first_row, int rows, int first_column, const Weights& weights, int width) {
    Image result(width, rows);
    for (int y = 0; y < rows; ++y) {
        const std::uint8_t* from = image.row(first_row + y);
        std::uint8_t* to = result.row(y);
        for (int x = 0; x < width; ++x, to += 3) {
            const Taps taps = weights[x];
            const std::uint8_t* pixel = from + static_cast<std::ptrdiff_t>(taps.first - first_column) * 3;
            std::int32_t red = kHalf, green = kHalf, blue = kHalf;
            for (int i = 0; i < taps.count; ++i, pixel += 3) {
                red += pixel[0] * taps.weights[i];
                green += pixel[1] * taps.weights[i];
                blue += pixel[2] * taps.weights[i];
            }
            to[0] = rounded(red);
            to[1] = rounded(green);
            to[2] = rounded(blue);
        }
    }
    return result;
}

// One pass down the columns: those of the image from `first_column` on, whose rows are counted from `first_row` on.
Image down_columns(const Image& image, int first_column, int columns, int first_row, const Weights& weights,
                   int height) {
    Image result(columns, height);
    const std::size_t line = static_cast<std::size_t>(columns) * 3;
    std::vector<std::int32_t> sums(line);
    for (int y = 0; y < height; ++y) {
        const Taps taps = weights[y];
        std::fill(sums.begin(), sums.end(), kHalf);
        for (int i = 0; i < taps.count; ++i) {
            const std::uint8_t* from = image.row(taps.first - first_row + i) + std::ptrdiff_t{first_column} * 3;
            const std::int32_t weight = taps.weights[i];
            for (std::size_t x = 0; x < line; ++x) sums[x] += from[x] * weight;
        }
        std::uint8_t* to = result.row(y);
        for (std::size_t x = 0; x < line; ++x) to[x] = rounded(sums[x]);
    }
    return result;
}

// Both passes. Each rounds, so their order counts; what the window does not show is left out of the first one.
Image in_two_passes(const Image& image, const Weights& across, const Weights& down, const Window& window,
                    bool columns_first) {
    if (columns_first) {
        const Taps first = across[0], last = across[window.width - 1];
        const int columns = last.first + last.count - first.first;
        const Image between = down_columns(image, first.first, columns, 0, down, window.height);
        return along_rows(between, 0, window.height, first.first, across, window.width);
    }
    const Taps first = down[0], last = down[window.height - 1];
    const int rows = last.first + last.count - first.first;
    const Image between = along_rows(image, first.first, rows, 0, across, window.width);
    return down_columns(between, 0, window.width, first.first, down, window.height);
}

// Where each pixel of a line is taken from; -1 where it lies outside, and the result is black.
std::vector<int> nearest(int source, int target) {
    std::vector<int> places;
    places.reserve(static_cast<std::size_t>(target));
    const double scale = static_cast<double>(source) / target;
    double at = scale * 0.5;
    // Summed up, not multiplied: the rounding errors are part of Pillow's result.
    for (int i = 0; i < target; ++i, at += scale) places.push_back(at < source ? static_cast<int>(at) : -1);
    return places;
}

Image picked(const Image& image, int width, int height, const Window& window) {
    const std::vector<int> columns = nearest(image.width, width), rows = nearest(image.height, height);
    Image result(window.width, window.height);
    for (int y = 0; y < window.height; ++y) {
        const int from_row = rows[static_cast<std::size_t>(window.top + y)];
        if (from_row < 0) continue;
        for (int x = 0; x < window.width; ++x) {
            const int from_column = columns[static_cast<std::size_t>(window.left + x)];
            if (from_column < 0) continue;
            std::memcpy(result.row(y) + std::ptrdiff_t{x} * 3, image.row(from_row) + std::ptrdiff_t{from_column} * 3, 3);
        }
    }
    return result;
}

}  // namespace

Filter filter_of(const std::string& name) {
    if (name == "nearest") return Filter::nearest;
    if (name == "bilinear") return Filter::bilinear;
    if (name == "bicubic") return Filter::bicubic;
    if (name == "lanczos") return Filter::lanczos;
    throw Error("there is no interpolation " + name);
}

Image cropped(const Image& image, const Window& window) {
    Image result(window.width, window.height);
    const std::size_t line = static_cast<std::size_t>(window.width) * 3;
    for (int y = 0; y < window.height; ++y) {
        std::memcpy(result.row(y), image.row(window.top + y) + std::ptrdiff_t{window.left} * 3, line);
    }
    return result;
}

Image resized(const Image& image, int width, int height, Filter filter, const Window& window, bool columns_first) {
    if (width == image.width && height == image.height) return cropped(image, window);
    if (filter == Filter::nearest) return picked(image, width, height, window);
    const Kernel kernel = kernel_of(filter);
    const Weights across(image.width, width, window.left, window.width, kernel);
    const Weights down(image.height, height, window.top, window.height, kernel);
    if (width == image.width) return down_columns(image, window.left, window.width, 0, down, window.height);
    if (height == image.height) return along_rows(image, window.top, window.height, 0, across, window.width);
    return in_two_passes(image, across, down, window, columns_first);
}

}  // namespace tlopt
