#include "parameters.h"

#include <fstream>
#include <functional>
#include <locale>
#include <map>
#include <set>
#include <sstream>

namespace tlopt {

namespace {

constexpr int kMostSide = 1 << 24;  // the other side, up to 64 times as long, is an int, too

std::ifstream open(const std::string& path) {
    std::ifstream stream(path);
    if (!stream) throw Error(path + " cannot be opened.");
    return stream;
}

std::vector<std::string> lines(const std::string& path) {
    std::ifstream stream = open(path);
    std::vector<std::string> found;
    for (std::string line; std::getline(stream, line);) {
        if (!line.empty() && line.back() == '\r') line.pop_back();
        found.push_back(line);
    }
    if (stream.bad()) throw Error(path + " cannot be read.");
    return found;
}

template <typename T>
T value(std::istream& from) {
    T result{};
    if (!(from >> result)) throw Error("its value cannot be read");
    return result;
}

std::array<float, 3> three(std::istream& from) {
    return {value<float>(from), value<float>(from), value<float>(from)};
}

Answers answers_of(const std::string& name) {
    if (name == "logits") return Answers::logits;
    if (name == "probabilities") return Answers::probabilities;
    if (name == "log_probabilities") return Answers::log_probabilities;
    if (name == "sigmoids") return Answers::sigmoids;
    throw Error("its value is none that this program knows");
}

int positive(std::istream& from) {
    const int result = value<int>(from);
    if (result < 1) throw Error("it has to be at least 1");
    return result;
}

using Setter = std::function<void(std::istream&)>;

std::map<std::string, Setter> setters(Parameters& to, const std::string& folder) {
    return {
        {"model", [&to, folder](std::istream& from) { to.model = folder + "/" + value<std::string>(from); }},
        {"answers", [&to](std::istream& from) { to.answers = answers_of(value<std::string>(from)); }},
        {"size", [&to](std::istream& from) { to.size = positive(from); }},
        {"side", [&to](std::istream& from) { to.side = positive(from); }},
        {"interpolation", [&to](std::istream& from) { to.filter = filter_of(value<std::string>(from)); }},
        {"columns_first_if_tall",
         [&to](std::istream& from) { to.columns_first_if_tall = value<bool>(from); }},
        {"channels_last", [&to](std::istream& from) { to.channels_last = value<bool>(from); }},
        {"bgr", [&to](std::istream& from) { to.bgr = value<bool>(from); }},
        {"takes_pixels", [&to](std::istream& from) { to.takes_pixels = value<bool>(from); }},
        {"scale", [&to](std::istream& from) { to.scale = three(from); }},
        {"shift", [&to](std::istream& from) { to.shift = three(from); }},
        {"batch", [&to](std::istream& from) { to.batch = positive(from); }},
        {"keep_float32", [&to](std::istream& from) { to.keep_float32 = value<bool>(from); }},
        {"integer_kernels", [&to](std::istream& from) { to.integer_kernels = value<bool>(from); }},
        {"engine_code", [&to](std::istream& from) { to.engine_code = value<bool>(from); }},
    };
}

// Sets what a line says; the parameter is no longer among those to come.
void set(const std::map<std::string, Setter>& known, std::set<std::string>& missing, const std::string& line,
         const std::string& path) {
    std::istringstream words(line);
    words.imbue(std::locale::classic());  // a point is a point, whatever the user's language
    std::string key, rest;
    words >> key;
    const auto found = known.find(key);
    if (found == known.end()) throw Error(path + ": this program does not know the parameter " + key + ".");
    try {
        if (!missing.erase(key)) throw Error("it is there twice");
        found->second(words);
        if (words >> rest) throw Error("its value cannot be read");
    } catch (const Error& error) {
        throw Error(path + ": " + key + ": " + error.what() + ".");
    }
}

}  // namespace

Parameters read_parameters(const std::string& folder) {
    Parameters result;
    const std::string path = folder + "/parameters.txt";
    const auto known = setters(result, folder);
    std::set<std::string> missing;
    for (const auto& [key, setter] : known) missing.insert(key);
    for (const std::string& line : lines(path)) {
        if (!line.empty() && line[0] != '#') set(known, missing, line, path);
    }
    if (!missing.empty()) throw Error(path + " is not complete: it lacks " + *missing.begin() + ".");
    if (result.side < result.size || result.side > kMostSide) {
        throw Error(path + ": side has to be at least size, and at most " + std::to_string(kMostSide) + ".");
    }
    result.labels = lines(folder + "/labels.txt");
    if (result.labels.empty()) throw Error(folder + "/labels.txt is empty.");
    return result;
}

}  // namespace tlopt
