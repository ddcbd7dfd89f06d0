// Images in memory, and how a file becomes one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace tlopt {

using Bytes = std::vector<std::uint8_t>;

// What the user is told: one sentence.
struct Error : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// 8-bit RGB, rows from top to bottom, three bytes a pixel, nothing between rows.
struct Image {
    int width = 0;
    int height = 0;
    Bytes pixels;

    Image() = default;
    Image(int wide, int high)
        : width(wide), height(high), pixels(static_cast<std::size_t>(wide) * static_cast<std::size_t>(high) * 3) {}

    std::uint8_t* row(int y) { return pixels.data() + offset(y); }
    const std::uint8_t* row(int y) const { return pixels.data() + offset(y); }

private:
    std::size_t offset(int y) const { return static_cast<std::size_t>(y) * static_cast<std::size_t>(width) * 3; }
};

// A JPEG or PNG file as upright RGB: rotation as its EXIF data says, transparency over white, 16 bits scaled to 8.
Image read_image(const std::string& path);

Bytes read_file(const std::string& path);

// The image as it is stored, not turned.
Image decode_jpeg(const Bytes& file);
Image decode_png(const Bytes& file);

// The EXIF orientation of a JPEG or PNG file, 1 (upright) to 8; 1 where it is missing or damaged.
int orientation(const Bytes& file);

// The image turned as this EXIF orientation says.
Image turned(const Image& image, int orientation);

// Refuse an image that would not fit into memory.
void check_size(std::uint64_t width, std::uint64_t height);

bool is_png(const Bytes& file);

}  // namespace tlopt
