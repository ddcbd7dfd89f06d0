// JPEG files by libjpeg-turbo, with its defaults: accurate inverse transform, smooth upsampling.
#include <csetjmp>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <utility>

#include <jpeglib.h>

#include "image.h"

namespace tlopt {

namespace {

// libjpeg is C: its errors leave by longjmp, so all that has a destructor lives outside of the function it jumps to.
struct Decoder {
    jpeg_decompress_struct info{};
    jpeg_error_mgr errors{};
    std::jmp_buf back;
    char message[JMSG_LENGTH_MAX] = "";
    Image image;
    Bytes line;

    ~Decoder() { jpeg_destroy_decompress(&info); }
};

[[noreturn]] void fail(j_common_ptr info) {
    auto* decoder = static_cast<Decoder*>(info->client_data);
    info->err->format_message(info, decoder->message);
    std::longjmp(decoder->back, 1);
}

// libjpeg's own source would make up the end of a file that is cut off, and grey pixels with it.
boolean truncated(j_decompress_ptr info) {
    auto* decoder = static_cast<Decoder*>(info->client_data);
    std::strcpy(decoder->message, "the image file is truncated");
    std::longjmp(decoder->back, 1);
}

void say_nothing(j_common_ptr) {}

// The product of two shares of 255, as a share of 255, rounded.
int share(int first, int second) {
    const int product = first * second + 128;
    return ((product >> 8) + product) >> 8;
}

// Adobe stores CMYK inverted, and all that write such files do.
void from_inverted_cmyk(const std::uint8_t* from, std::uint8_t* to, int pixels) {
    for (int x = 0; x < pixels; ++x, from += 4, to += 3) {
        for (int channel = 0; channel < 3; ++channel) {
            to[channel] = static_cast<std::uint8_t>(from[3] - share(255 - from[channel], from[3]));
        }
    }
}

void from_grey(const std::uint8_t* from, std::uint8_t* to, int pixels) {
    for (int x = 0; x < pixels; ++x, to += 3) to[0] = to[1] = to[2] = from[x];
}

// Returns whether it went well; else the decoder's message says why not.
bool start(Decoder& decoder, const Bytes& file) {
    if (setjmp(decoder.back)) return false;
    jpeg_create_decompress(&decoder.info);
    decoder.info.client_data = &decoder;
    jpeg_mem_src(&decoder.info, const_cast<unsigned char*>(file.data()), static_cast<unsigned long>(file.size()));
    decoder.info.src->fill_input_buffer = truncated;
    jpeg_read_header(&decoder.info, TRUE);
    switch (decoder.info.num_components) {
        case 1: decoder.info.out_color_space = JCS_GRAYSCALE; break;
        case 3: decoder.info.out_color_space = JCS_RGB; break;
        case 4: decoder.info.out_color_space = JCS_CMYK; break;
        default:
            std::snprintf(decoder.message, sizeof decoder.message, "it has %d color components",
                          decoder.info.num_components);
            return false;
    }
    return true;
}

bool finish(Decoder& decoder) {
    if (setjmp(decoder.back)) return false;
    jpeg_start_decompress(&decoder.info);
    while (decoder.info.output_scanline < decoder.info.output_height) {
        std::uint8_t* to = decoder.image.row(static_cast<int>(decoder.info.output_scanline));
        JSAMPROW row = decoder.info.out_color_space == JCS_RGB ? to : decoder.line.data();
        jpeg_read_scanlines(&decoder.info, &row, 1);
        if (decoder.info.out_color_space == JCS_CMYK) from_inverted_cmyk(row, to, decoder.image.width);
        if (decoder.info.out_color_space == JCS_GRAYSCALE) from_grey(row, to, decoder.image.width);
    }
    return true;
}

}  // namespace

Image decode_jpeg(const Bytes& file) {
    Decoder decoder;
    decoder.info.err = jpeg_std_error(&decoder.errors);
    decoder.errors.error_exit = fail;
    decoder.errors.output_message = say_nothing;
    decoder.info.client_data = &decoder;
    if (!start(decoder, file)) throw Error(decoder.message);
    check_size(decoder.info.image_width, decoder.info.image_height);
    decoder.image = Image(static_cast<int>(decoder.info.image_width), static_cast<int>(decoder.info.image_height));
    decoder.line.resize(static_cast<std::size_t>(decoder.image.width) * 4);
    if (!finish(decoder)) throw Error(decoder.message);
    return std::move(decoder.image);
}

}  // namespace tlopt
