// PNG files by libpng, which unpacks only; what samples mean follows Pillow.
#include <algorithm>
#include <csetjmp>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <utility>
#include <vector>

#include <png.h>

#include "image.h"

namespace tlopt {

namespace {

// libpng is C: its errors leave by longjmp, so all that has a destructor lives outside of the function it jumps to.
struct Decoder {
    png_structp png = nullptr;
    png_infop info = nullptr;
    const Bytes* file = nullptr;
    std::size_t at = 0;
    char message[200] = "";
    png_uint_32 width = 0, height = 0;
    int depth = 0, color = 0;
    Bytes samples;
    std::vector<png_bytep> rows;

    ~Decoder() { png_destroy_read_struct(&png, &info, nullptr); }
};

[[noreturn]] void fail(png_structp png, png_const_charp why) {
    auto* decoder = static_cast<Decoder*>(png_get_error_ptr(png));
    std::snprintf(decoder->message, sizeof decoder->message, "%s", why);
    png_longjmp(png, 1);
}

void say_nothing(png_structp, png_const_charp) {}

void read(png_structp png, png_bytep to, png_size_t count) {
    auto* decoder = static_cast<Decoder*>(png_get_io_ptr(png));
    if (count > decoder->file->size() - decoder->at) png_error(png, "the image file is truncated");
    std::memcpy(to, decoder->file->data() + decoder->at, count);
    decoder->at += count;
}

bool start(Decoder& decoder) {
    if (setjmp(png_jmpbuf(decoder.png))) return false;
    png_set_read_fn(decoder.png, &decoder, read);
    png_set_user_limits(decoder.png, 0x7FFFFFFF, 0x7FFFFFFF);
    png_read_info(decoder.png, decoder.info);
    png_get_IHDR(decoder.png, decoder.info, &decoder.width, &decoder.height, &decoder.depth, &decoder.color, nullptr,
                 nullptr, nullptr);
    png_set_packing(decoder.png);  // one byte for each sample of 1, 2 or 4 bits
    png_set_interlace_handling(decoder.png);
    png_read_update_info(decoder.png, decoder.info);
    return true;
}

bool finish(Decoder& decoder) {
    if (setjmp(png_jmpbuf(decoder.png))) return false;
    png_read_image(decoder.png, decoder.rows.data());
    return true;
}

// Which color is transparent, as the file says it: one for the whole image, or one alpha for each color of the palette.
struct Transparency {
    bool found = false;
    png_color_16 color{};
    std::uint8_t alphas[256];
};

Transparency transparency(const Decoder& decoder) {
    Transparency result;
    std::fill(std::begin(result.alphas), std::end(result.alphas), std::uint8_t{255});
    png_bytep alphas = nullptr;
    int count = 0;
    png_color_16p color = nullptr;
    if (!(png_get_tRNS(decoder.png, decoder.info, &alphas, &count, &color) & PNG_INFO_tRNS)) return result;
    result.found = true;
    if (decoder.color == PNG_COLOR_TYPE_PALETTE) {
        std::copy(alphas, alphas + std::min(count, 256), result.alphas);
    } else if (color) {
        result.color = *color;
    }
    return result;
}

// A sample over white, as Pillow's alpha_composite rounds it.
std::uint8_t over_white(int sample, int alpha) {
    if (alpha == 0) return 255;
    const int mixed = (sample * alpha + 255 * (255 - alpha)) * 128 + (128 << 7);
    return static_cast<std::uint8_t>((((mixed >> 8) + mixed) >> 8) >> 7);
}

struct Converter {
    const Decoder& decoder;
    Transparency clear;
    std::uint8_t palette[256][3] = {};

    explicit Converter(const Decoder& from) : decoder(from), clear(transparency(from)) {
        png_colorp colors = nullptr;
        int count = 0;
        if (png_get_PLTE(from.png, from.info, &colors, &count) & PNG_INFO_PLTE) {
            for (int i = 0; i < std::min(count, 256); ++i) {
                palette[i][0] = colors[i].red, palette[i][1] = colors[i].green, palette[i][2] = colors[i].blue;
            }
        }
    }

    void operator()(const std::uint8_t* from, std::uint8_t* to) const {
        switch (decoder.color) {
            case PNG_COLOR_TYPE_GRAY: return grey(from, to);
            case PNG_COLOR_TYPE_PALETTE: return indexed(from, to);
            case PNG_COLOR_TYPE_RGB: return rgb(from, to);
            case PNG_COLOR_TYPE_GRAY_ALPHA: return with_alpha(from, to, 1);
            default: return with_alpha(from, to, 3);
        }
    }

    void grey(const std::uint8_t* from, std::uint8_t* to) const {
        const int steps[] = {0, 255, 85, 0, 17, 0, 0, 0, 1};
        // Pillow keeps the transparent value as the file has it: what has 2 or 4 bits matches where it is 0 alone.
        const int hidden = decoder.depth == 1 ? (clear.color.gray ? 255 : 0) : clear.color.gray & 255;
        for (png_uint_32 x = 0; x < decoder.width; ++x, to += 3) {
            int value;
            if (decoder.depth == 16) {
                value = ((from[2 * x] << 8 | from[2 * x + 1]) + 128) / 257;
            } else {
                value = from[x] * steps[decoder.depth];
                if (clear.found && value == hidden) value = 255;
            }
            to[0] = to[1] = to[2] = static_cast<std::uint8_t>(value);
        }
    }

    void indexed(const std::uint8_t* from, std::uint8_t* to) const {
        for (png_uint_32 x = 0; x < decoder.width; ++x, to += 3) {
            const std::uint8_t* color = palette[from[x]];
            const int alpha = clear.alphas[from[x]];
            for (int channel = 0; channel < 3; ++channel) to[channel] = over_white(color[channel], alpha);
        }
    }

    void rgb(const std::uint8_t* from, std::uint8_t* to) const {
        const int wide = decoder.depth / 8;  // of 16 bits, the upper 8 count
        const int hidden[] = {clear.color.red & 255, clear.color.green & 255, clear.color.blue & 255};
        for (png_uint_32 x = 0; x < decoder.width; ++x, from += 3 * wide, to += 3) {
            for (int channel = 0; channel < 3; ++channel) to[channel] = from[channel * wide];
            if (clear.found && to[0] == hidden[0] && to[1] == hidden[1] && to[2] == hidden[2]) {
                to[0] = to[1] = to[2] = 255;
            }
        }
    }

    void with_alpha(const std::uint8_t* from, std::uint8_t* to, int colors) const {
        const int wide = decoder.depth / 8;
        for (png_uint_32 x = 0; x < decoder.width; ++x, from += (colors + 1) * wide, to += 3) {
            const int alpha = from[colors * wide];
            for (int channel = 0; channel < 3; ++channel) {
                to[channel] = over_white(from[colors == 1 ? 0 : channel * wide], alpha);
            }
        }
    }
};

}  // namespace

Image decode_png(const Bytes& file) {
    Decoder decoder;
    decoder.file = &file;
    decoder.png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &decoder, fail, say_nothing);
    decoder.info = decoder.png ? png_create_info_struct(decoder.png) : nullptr;
    if (!decoder.info) throw Error("libpng does not start");
    if (!start(decoder)) throw Error(decoder.message);
    check_size(decoder.width, decoder.height);
    const std::size_t line = png_get_rowbytes(decoder.png, decoder.info);
    decoder.samples.resize(line * decoder.height);
    decoder.rows.resize(decoder.height);
    for (std::size_t y = 0; y < decoder.height; ++y) decoder.rows[y] = decoder.samples.data() + y * line;
    if (!finish(decoder)) throw Error(decoder.message);
    const Converter convert(decoder);
    Image image(static_cast<int>(decoder.width), static_cast<int>(decoder.height));
    for (int y = 0; y < image.height; ++y) convert(decoder.rows[static_cast<std::size_t>(y)], image.row(y));
    return image;
}

}  // namespace tlopt
