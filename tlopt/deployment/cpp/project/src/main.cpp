// classify: prints the most probable classes of image files.
#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <new>
#include <string>
#include <vector>

#include "classifier.h"
#include "image.h"
#include "preprocess.h"

namespace {

constexpr const char* kUsage =
    "Usage: classify [OPTIONS] IMAGE...\n"
    "\n"
    "Prints the most probable classes of JPEG and PNG files, a line for each file.\n"
    "\n"
    "  --model FOLDER   Folder with the model, parameters.txt and labels.txt.\n"
    "  --top N          Number of classes to name for each image. Default: 5.\n"
    "  --threads N      Processor threads of the network. 0 leaves them to its library. Default: 0.\n"
    "  --json           A JSON object for each image.\n"
    "  --numbers        The network's own numbers, tab between them.\n"
    "  --pixels         What the network sees of each image, as PPM files one after the other.\n"
    "  --decoded        Each image upright in RGB before it is resized, as PPM files one after the other.\n"
    "  --timing         At the end, mean milliseconds of each part on the standard error stream.\n"
    "  --help           This text.\n"
    "\n"
    "Exit code: 0, 1 if an image or the model could not be read or the output not written, 2 if the command line is wrong.\n";

enum class Show { text, json, numbers, pixels, decoded };

struct Options {
    std::string model = CLASSIFY_MODEL;
    std::size_t top = 5;
    int threads = 0;
    Show show = Show::text;
    bool timing = false;
    bool help = false;
    std::vector<std::string> images;
};

struct UsageError : tlopt::Error {
    using Error::Error;
};

constexpr int kMostThreads = 1024;  // runtimes do begin to start more, and hang
constexpr int kMostClasses = 1000000;

int number(const std::string& option, const std::string& text, int least, int most) {
    char* end = nullptr;
    const long value = std::strtol(text.c_str(), &end, 10);
    if (text.empty() || *end != '\0' || value < least || value > most) {
        throw UsageError(option + " takes a whole number from " + std::to_string(least) + " to " + std::to_string(most) +
                         ", got " + text + ".");
    }
    return static_cast<int>(value);
}

// Options that are followed by a value; returns whether this is one.
bool take_value(Options& options, const std::string& name, const std::vector<std::string>& words, std::size_t& at) {
    if (name != "--model" && name != "--top" && name != "--threads") return false;
    if (++at == words.size()) throw UsageError(name + " needs a value.");
    if (name == "--model") options.model = words[at];
    if (name == "--top") options.top = static_cast<std::size_t>(number(name, words[at], 1, kMostClasses));
    if (name == "--threads") options.threads = number(name, words[at], 0, kMostThreads);
    return true;
}

Options options_of(const std::vector<std::string>& words) {
    Options options;
    bool only_images = false;
    for (std::size_t at = 0; at < words.size(); ++at) {
        const std::string& word = words[at];
        if (only_images || word.empty() || word[0] != '-') {
            options.images.push_back(word);
        } else if (word == "--") {
            only_images = true;
        } else if (word == "--help" || word == "-h") {
            options.help = true;
        } else if (word == "--json") {
            options.show = Show::json;
        } else if (word == "--numbers") {
            options.show = Show::numbers;
        } else if (word == "--pixels") {
            options.show = Show::pixels;
        } else if (word == "--decoded") {
            options.show = Show::decoded;
        } else if (word == "--timing") {
            options.timing = true;
        } else if (!take_value(options, word, words, at)) {
            throw UsageError("There is no option " + word + ".");
        }
    }
    if (options.images.empty() && !options.help) throw UsageError("Name an image.");
    return options;
}

struct Character {
    unsigned code;     // of Unicode; of the byte, where it is no UTF-8
    std::size_t size;  // in bytes
    bool valid;
};

// The character that begins here. Which are well-formed: The Unicode Standard 16, table 3-7.
Character character(const std::string& text, std::size_t at) {
    const auto byte = [&](std::size_t i) { return at + i < text.size() ? static_cast<unsigned char>(text[at + i]) : 0U; };
    const unsigned first = byte(0);
    if (first < 0x80) return {first, 1, true};
    const Character none{first, 1, false};
    if (first < 0xC2 || first > 0xF4) return none;
    const std::size_t size = first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
    const unsigned least = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
    const unsigned most = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
    if (byte(1) < least || byte(1) > most) return none;
    unsigned code = first & (0x7FU >> size);
    for (std::size_t i = 1; i < size; ++i) {
        if (byte(i) >> 6 != 2) return none;
        code = code << 6 | (byte(i) & 0x3F);
    }
    return {code, size, true};
}

// What begins a line, controls a terminal or turns the direction of the text that follows.
bool unsafe(unsigned code) {
    const bool turns = (code >= 0x202A && code <= 0x202E) || (code >= 0x2066 && code <= 0x2069);
    return code < 0x20 || (code >= 0x7F && code < 0xA0) || code == 0x2028 || code == 0x2029 || turns ||
           code == 0xFFFE || code == 0xFFFF;
}

// How unsafe characters below U+0100 and bytes that are no UTF-8 are written, and what has a backslash before it.
struct Escapes {
    const char *control, *byte, *special;
};

std::string escaped(const std::string& text, const Escapes& escapes) {
    std::string result;
    for (std::size_t at = 0; at < text.size();) {
        const Character next = character(text, at);
        if (!next.valid || unsafe(next.code)) {
            char buffer[8];
            const char* const small = next.valid ? escapes.control : escapes.byte;
            std::snprintf(buffer, sizeof buffer, next.code < 0x100 ? small : "\\u%04x", next.code);
            result += buffer;
        } else {
            if (next.code < 0x80 && std::strchr(escapes.special, text[at])) result += '\\';
            result.append(text, at, next.size);
        }
        at += next.size;
    }
    return result;
}

std::string quoted(const std::string& text) {
    return '"' + escaped(text, {"\\u%04x", "\\udc%02x", "\"\\"}) + '"';  // the same as Python's json and its file names
}

std::string shown(const std::string& text) {
    return escaped(text, {"\\x%02x", "\\x%02x", ""});
}

void print_text(const std::string& path, const tlopt::Answer& answer, const std::vector<std::string>& labels,
                std::size_t top) {
    std::printf("%s\t", shown(path).c_str());
    for (std::size_t i = 0; i < top; ++i) {
        const std::size_t label = answer.order[i];
        std::printf("%s%s %.3f", i ? ", " : "", shown(labels[label]).c_str(), answer.probabilities[label]);
    }
    std::printf("\n");
}

void print_json(const std::string& path, const tlopt::Answer& answer, const std::vector<std::string>& labels,
                std::size_t top) {
    std::printf("{\"file\": %s, \"top\": [", quoted(path).c_str());
    for (std::size_t i = 0; i < top; ++i) {
        const std::size_t label = answer.order[i];
        std::printf("%s{\"class\": %s, \"probability\": %.6f}", i ? ", " : "", quoted(labels[label]).c_str(),
                    answer.probabilities[label]);
    }
    std::printf("]}\n");
}

void print_numbers(const std::string& path, const tlopt::Answer& answer) {
    std::printf("%s", shown(path).c_str());
    for (const float value : answer.numbers) std::printf("\t%.9g", static_cast<double>(value));
    std::printf("\n");
}

void print_pixels(const tlopt::Image& image) {
    std::printf("P6\n%d %d\n255\n", image.width, image.height);
    std::fwrite(image.pixels.data(), 1, image.pixels.size(), stdout);
}

void print_answer(const std::string& path, const tlopt::Answer& answer, const tlopt::Parameters& parameters,
                  const Options& options) {
    const std::size_t top = std::min(options.top, parameters.labels.size());
    if (options.show == Show::json) {
        print_json(path, answer, parameters.labels, top);
    } else if (options.show == Show::numbers) {
        print_numbers(path, answer);
    } else {
        print_text(path, answer, parameters.labels, top);
    }
}

// Sends on what was printed; throws an Error if that does not get where it should.
void check_output() {
    errno = 0;
    if (std::fflush(stdout) == 0 && !std::ferror(stdout)) return;
    const std::string reason = errno ? std::string(": ") + std::strerror(errno) : "";
    throw tlopt::Error("The output cannot be written" + reason + ".");
}

void complain(const std::exception& error) {
    std::fprintf(stderr, "Error: %s\n", shown(error.what()).c_str());
}

// Calls `work` for each image; returns the exit code. An image that cannot be read is told, and the others go on.
template <typename Work>
int for_each(const std::vector<std::string>& images, Work work) {
    int code = 0;
    for (const std::string& path : images) {
        try {
            work(path);
        } catch (const std::bad_alloc&) {
            complain(tlopt::Error(path + ": there is not enough memory."));
            code = 1;
        } catch (const std::exception& error) {
            complain(error);
            code = 1;
        }
        check_output();
    }
    return code;
}

void print_timing(const tlopt::Classifier& classifier) {
    const tlopt::Taken& taken = classifier.taken();
    if (!taken.images) return;
    std::fprintf(stderr, "%s: %d images, decoding %.3f ms, resizing %.3f ms, network %.3f ms\n",
                 classifier.runtime().c_str(), taken.images, taken.decoding / taken.images,
                 taken.resizing / taken.images, taken.network / taken.images);
}

int run(const Options& options) {
    if (options.show == Show::decoded) {
        return for_each(options.images, [](const std::string& path) { print_pixels(tlopt::read_image(path)); });
    }
    if (options.show == Show::pixels) {
        const tlopt::Parameters parameters = tlopt::read_parameters(options.model);
        return for_each(options.images, [&parameters](const std::string& path) {
            print_pixels(tlopt::central(tlopt::read_image(path), parameters));
        });
    }
    tlopt::Classifier classifier(options.model, options.threads);
    const int code = for_each(options.images, [&](const std::string& path) {
        print_answer(path, classifier.classify(path), classifier.parameters(), options);
    });
    if (options.timing) print_timing(classifier);
    return code;
}

}  // namespace

int main(int count, char** words) {
#ifdef SIGPIPE
    std::signal(SIGPIPE, SIG_IGN);  // a reader that has gone is an error to tell
#endif
    try {
        const Options options = options_of({words + 1, words + count});
        if (options.help) {
            std::fputs(kUsage, stdout);
            check_output();
            return 0;
        }
        return run(options);
    } catch (const UsageError& error) {
        complain(error);
        std::fputs("classify --help tells what it takes.\n", stderr);
        return 2;
    } catch (const std::exception& error) {
        complain(error);
        return 1;
    }
}
