#include "image.h"

#include <cstring>
#include <filesystem>
#include <fstream>
#include <new>
#include <system_error>

namespace tlopt {

namespace {

constexpr std::uint64_t kMostBytes = std::uint64_t{2} << 30;
constexpr std::uint64_t kMostPixels = 178956970;  // what Pillow refuses as a decompression bomb

bool is_jpeg(const Bytes& file) {
    return file.size() >= 3 && file[0] == 0xFF && file[1] == 0xD8 && file[2] == 0xFF;
}

Image decode(const Bytes& file) {
    if (file.empty()) throw Error("it is empty");
    if (is_jpeg(file)) return decode_jpeg(file);
    if (is_png(file)) return decode_png(file);
    throw Error("its content is neither JPEG nor PNG");
}

}  // namespace

bool is_png(const Bytes& file) {
    static const std::uint8_t magic[8] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1A, '\n'};
    return file.size() >= sizeof magic && std::memcmp(file.data(), magic, sizeof magic) == 0;
}

void check_size(std::uint64_t width, std::uint64_t height) {
    if (width == 0 || height == 0) throw Error("it has no pixels");
    if (width * height > kMostPixels) {
        throw Error("it has " + std::to_string(width * height) + " pixels, more than " + std::to_string(kMostPixels));
    }
}

Bytes read_file(const std::string& path) {
    // A folder can be opened, too, and a pipe would be waited for.
    std::error_code missing;
    const std::filesystem::file_status status = std::filesystem::status(path, missing);
    if (std::filesystem::exists(status) && !std::filesystem::is_regular_file(status)) throw Error("it is no file");
    std::ifstream stream(path, std::ios::binary | std::ios::ate);
    if (!stream) throw Error("it cannot be opened");
    const std::streamoff size = stream.tellg();
    if (size < 0 || static_cast<std::uint64_t>(size) > kMostBytes) throw Error("it is larger than 2 GB");
    Bytes content(static_cast<std::size_t>(size));
    stream.seekg(0);
    if (size > 0 && !stream.read(reinterpret_cast<char*>(content.data()), size)) throw Error("it cannot be read");
    return content;
}

Image turned(const Image& image, int orientation) {
    if (orientation < 2 || orientation > 8) return image;
    const bool sideways = orientation >= 5;
    const std::ptrdiff_t width = image.width, height = image.height, last = width * height - 1;
    // In pixels of the source: where the result's first pixel is, and how far its next one in a row and in a column.
    struct Walk {
        std::ptrdiff_t start, right, down;
    };
    const Walk walks[] = {
        {width - 1, -1, width},               // 2: mirrored from left to right
        {last, -1, -width},                   // 3: half a turn
        {(height - 1) * width, 1, -width},    // 4: mirrored from top to bottom
        {0, width, 1},                        // 5: mirrored along the diagonal
        {(height - 1) * width, -width, 1},    // 6: a quarter turn clockwise
        {last, -width, -1},                   // 7: mirrored along the other diagonal
        {width - 1, width, -1},               // 8: a quarter turn counterclockwise
    };
    const Walk& walk = walks[orientation - 2];
    Image result(sideways ? image.height : image.width, sideways ? image.width : image.height);
    for (int y = 0; y < result.height; ++y) {
        std::uint8_t* to = result.row(y);
        std::ptrdiff_t from = walk.start + y * walk.down;
        for (int x = 0; x < result.width; ++x, from += walk.right, to += 3) {
            std::memcpy(to, image.pixels.data() + from * 3, 3);
        }
    }
    return result;
}

Image read_image(const std::string& path) {
    try {
        const Bytes file = read_file(path);
        Image image = decode(file);
        const int stored = orientation(file);
        return stored == 1 ? image : turned(image, stored);
    } catch (const std::bad_alloc&) {
        throw Error(path + " cannot be read as an image: there is not enough memory.");
    } catch (const Error& error) {
        throw Error(path + " cannot be read as an image: " + error.what() + ".");
    }
}

}  // namespace tlopt
