// Which way is up: the EXIF data of JPEG and PNG files, else their XMP, read as Pillow reads them.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>

#include <zlib.h>

#include "image.h"

namespace tlopt {

namespace {

constexpr int kOrientation = 274;
constexpr std::size_t kMostText = 1 << 20;

struct Metadata {
    std::optional<std::string> exif;
    std::string xmp;
};

std::string text(const Bytes& file, std::size_t at, std::size_t size) {
    return {reinterpret_cast<const char*>(file.data()) + at, size};
}

std::uint32_t big(const Bytes& file, std::size_t at, int size) {
    std::uint32_t value = 0;
    for (int i = 0; i < size; ++i) value = value << 8 | file[at + static_cast<std::size_t>(i)];
    return value;
}

bool begins(const std::string& content, const std::string& with) {
    return content.compare(0, with.size(), with) == 0;
}

// --- JPEG: what comes before the first scan

const std::string kExif("Exif\0\0", 6);
const std::string kXmp("http://ns.adobe.com/xap/1.0/\0", 29);

void application(Metadata& found, const std::string& segment) {
    if (begins(segment, kExif)) {
        if (found.exif) {
            *found.exif += segment.substr(kExif.size());
        } else {
            found.exif = segment;
        }
    } else if (begins(segment, kXmp)) {
        found.xmp = segment.substr(kXmp.size());
    }
}

bool has_content(std::uint8_t marker) {
    const bool restart = marker >= 0xD0 && marker <= 0xD7;
    const bool extension = marker >= 0xF0 && marker <= 0xFD;
    return marker >= 0xC0 && !restart && !extension && marker != 0xD8 && marker != 0xD9 && marker != 0xC8;
}

Metadata of_jpeg(const Bytes& file) {
    Metadata found;
    std::size_t at = 2;
    while (at + 4 <= file.size()) {
        const std::uint8_t marker = file[at + 1];
        if (file[at] != 0xFF || marker == 0xFF || !has_content(marker)) {
            ++at;
            continue;
        }
        const std::size_t size = big(file, at + 2, 2);
        if (marker == 0xDA || size < 2 || at + 2 + size > file.size()) break;
        if (marker == 0xE1) application(found, text(file, at + 4, size - 2));
        at += 2 + size;
    }
    return found;
}

// --- PNG: its chunks

std::string inflated(const std::string& packed) {
    z_stream stream{};
    if (inflateInit(&stream) != Z_OK) return "";
    std::string result(kMostText, '\0');
    stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(packed.data()));
    stream.avail_in = static_cast<uInt>(packed.size());
    stream.next_out = reinterpret_cast<Bytef*>(&result[0]);
    stream.avail_out = static_cast<uInt>(result.size());
    const int status = inflate(&stream, Z_FINISH);
    result.resize(status == Z_STREAM_END ? stream.total_out : 0);
    inflateEnd(&stream);
    return result;
}

// The text after a keyword, as tEXt, zTXt and iTXt chunks have it.
std::string value_of(const std::string& kind, const std::string& rest) {
    if (kind == "tEXt") return rest;
    if (kind == "zTXt") return rest.empty() ? "" : inflated(rest.substr(1));
    if (rest.size() < 2) return "";
    const std::size_t language = rest.find('\0', 2);
    const std::size_t keyword = language == std::string::npos ? language : rest.find('\0', language + 1);
    if (keyword == std::string::npos) return "";
    return rest[0] ? inflated(rest.substr(keyword + 1)) : rest.substr(keyword + 1);
}

int digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

// ImageMagick writes EXIF data as text: an empty line, a name, a length, then bytes as hexadecimal digits.
std::string from_digits(const std::string& profile) {
    std::size_t at = 0;
    for (int line = 0; line < 3 && at != std::string::npos; ++line) {
        at = profile.find('\n', at);
        if (at != std::string::npos) ++at;
    }
    std::string result;
    int upper = -1;
    for (; at < profile.size(); ++at) {
        const int value = digit(profile[at]);
        if (value < 0) continue;
        if (upper < 0) {
            upper = value;
        } else {
            result += static_cast<char>(upper << 4 | value);
            upper = -1;
        }
    }
    return result;
}

Metadata of_png(const Bytes& file) {
    Metadata found;
    std::string profile;
    for (std::size_t at = 8; at + 12 <= file.size();) {
        const std::size_t size = big(file, at, 4);
        const std::string kind = text(file, at + 4, 4);
        if (kind == "IEND" || size > file.size() - at - 12) break;
        if (kind == "eXIf") found.exif = text(file, at + 8, size);
        if (kind == "tEXt" || kind == "zTXt" || kind == "iTXt") {
            const std::string chunk = text(file, at + 8, size);
            const std::size_t end = std::min(chunk.find('\0'), chunk.size());
            const std::string keyword = chunk.substr(0, end), rest = chunk.substr(std::min(end + 1, chunk.size()));
            if (keyword == "XML:com.adobe.xmp") found.xmp = value_of(kind, rest);
            if (keyword == "Raw profile type exif") profile = value_of(kind, rest);
        }
        at += 12 + size;
    }
    if (!found.exif && !profile.empty()) found.exif = from_digits(profile);
    return found;
}

// --- EXIF: one directory of a TIFF file

class Directory {
public:
    explicit Directory(const std::string& content) : content_(content) {}

    // The orientation; none if there is no such entry, 1 if the data is damaged.
    std::optional<int> orientation() const {
        static const char* const known[] = {"MM\0*", "II*\0", "MM*\0", "II\0*"};
        bool header = false;
        for (const char* prefix : known) header = header || begins(content_, std::string(prefix, 4));
        if (!header || content_.size() < 8) return 1;
        const std::size_t start = number(4, 4);
        if (start + 2 > content_.size()) return std::nullopt;
        const std::size_t entries = number(start, 2);
        for (std::size_t i = 0, at = start + 2; i < entries && at + 12 <= content_.size(); ++i, at += 12) {
            if (number(at, 2) != kOrientation) continue;
            if (const auto value = entry(at)) return as_orientation(*value);
        }
        return std::nullopt;
    }

private:
    std::uint64_t number(std::size_t at, std::size_t size) const {
        std::uint64_t value = 0;
        for (std::size_t i = 0; i < size; ++i) {
            const std::size_t from = content_[0] == 'I' ? at + size - 1 - i : at + i;
            value = value << 8 | static_cast<std::uint8_t>(content_[from]);
        }
        return value;
    }

    // The first value of an entry; none if the entry is unusable, 0 if its type holds no number.
    std::optional<double> entry(std::size_t at) const {
        static const std::size_t sizes[] = {0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8};
        const std::size_t type = number(at + 2, 2), count = number(at + 4, 4);
        if (type >= sizeof sizes / sizeof *sizes || sizes[type] == 0 || count == 0) return std::nullopt;
        const std::size_t size = count * sizes[type];
        const std::size_t place = size > 4 ? number(at + 8, 4) : at + 8;
        if (place > content_.size() || size > content_.size() - place) return std::nullopt;
        return value(type, place);
    }

    double value(std::size_t type, std::size_t at) const {
        switch (type) {
            case 3: return static_cast<double>(number(at, 2));
            case 4: case 13: return static_cast<double>(number(at, 4));
            case 5: return static_cast<double>(number(at, 4)) / static_cast<double>(number(at + 4, 4));
            case 6: return static_cast<std::int8_t>(number(at, 1));
            case 8: return static_cast<std::int16_t>(number(at, 2));
            case 9: return static_cast<std::int32_t>(number(at, 4));
            case 10: return static_cast<double>(static_cast<std::int32_t>(number(at, 4))) /
                            static_cast<std::int32_t>(number(at + 4, 4));
            case 11: return real<float, std::uint32_t>(at);
            case 12: return real<double, std::uint64_t>(at);
            case 16: return static_cast<double>(number(at, 8));
            default: return 0;
        }
    }

    template <typename Real, typename Bits>
    double real(std::size_t at) const {
        const Bits bits = static_cast<Bits>(number(at, sizeof(Bits)));
        Real result;
        std::memcpy(&result, &bits, sizeof result);
        return static_cast<double>(result);
    }

    static int as_orientation(double value) {
        return value >= 1 && value <= 8 && value == std::floor(value) ? static_cast<int>(value) : 1;
    }

    const std::string& content_;
};

// --- XMP: a digit in a text

int of_xmp(const std::string& xmp) {
    const std::string name = "tiff:Orientation";
    for (std::size_t at = xmp.find(name); at != std::string::npos; at = xmp.find(name, at + 1)) {
        std::size_t value = at + name.size();
        if (xmp.compare(value, 2, "=\"") == 0) {
            value += 2;
        } else if (xmp.compare(value, 1, ">") == 0) {
            value += 1;
        } else {
            continue;
        }
        if (value < xmp.size() && xmp[value] >= '0' && xmp[value] <= '9') {
            const int found = xmp[value] - '0';
            return found >= 1 && found <= 8 ? found : 1;
        }
    }
    return 1;
}

}  // namespace

int orientation(const Bytes& file) {
    Metadata found = is_png(file) ? of_png(file) : of_jpeg(file);
    if (found.exif) {
        std::string& exif = *found.exif;
        for (int i = 0; i < 2 && begins(exif, kExif); ++i) exif.erase(0, kExif.size());
        if (!exif.empty()) {
            if (const auto said = Directory(exif).orientation()) return *said;
        }
    }
    return of_xmp(found.xmp);
}

}  // namespace tlopt
