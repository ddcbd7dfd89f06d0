#include "classifier.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <exception>
#include <numeric>

namespace tlopt {

namespace {

class Clock {
public:
    // Milliseconds since the last call.
    double lap() {
        const auto now = std::chrono::steady_clock::now();
        const std::chrono::duration<double, std::milli> passed = now - last_;
        last_ = now;
        return passed.count();
    }

private:
    std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

std::vector<double> probabilities(const std::vector<float>& numbers, Answers kind) {
    std::vector<double> result(numbers.begin(), numbers.end());
    if (kind == Answers::probabilities || kind == Answers::sigmoids) return result;
    const double largest = kind == Answers::logits ? *std::max_element(result.begin(), result.end()) : 0;
    for (double& value : result) value = std::exp(value - largest);
    if (kind == Answers::logits) {
        const double sum = std::accumulate(result.begin(), result.end(), 0.0);
        for (double& value : result) value /= sum;
    }
    return result;
}

void check(const std::vector<float>& numbers, const Parameters& parameters) {
    if (numbers.size() != parameters.labels.size()) {
        throw Error("The network gives " + std::to_string(numbers.size()) + " numbers for " +
                    std::to_string(parameters.labels.size()) + " classes.");
    }
    if (!std::all_of(numbers.begin(), numbers.end(), [](float value) { return std::isfinite(value); })) {
        throw Error("The network answers with numbers that are not finite.");
    }
}

// What a library says of its failure, which may have lines.
std::string on_one_line(const std::exception& error) {
    std::string reason = error.what();
    std::replace(reason.begin(), reason.end(), '\n', ' ');
    return reason;
}

std::vector<float> answered(Runtime& runtime, const Input& input) {
    try {
        return runtime.run(input);
    } catch (const Error&) {
        throw;
    } catch (const std::exception& error) {
        throw Error("The network does not run: " + on_one_line(error));
    }
}

}  // namespace

std::vector<float> first_of(std::vector<float> numbers, const Input& input) {
    numbers.resize(numbers.size() / static_cast<std::size_t>(input.shape.front()));
    return numbers;
}

Classifier::Classifier(const std::string& folder, int threads) : parameters_(read_parameters(folder)) {
    try {
        runtime_ = open_runtime(parameters_, threads);
    } catch (const Error&) {
        throw;
    } catch (const std::exception& error) {
        throw Error(parameters_.model + " cannot be opened: " + on_one_line(error));
    }
}

Answer Classifier::classify(const std::string& path) {
    Clock clock;
    const Image image = read_image(path);
    const double decoding = clock.lap();
    const Input input = input_of(central(image, parameters_), parameters_);
    const double resizing = clock.lap();
    Answer answer;
    answer.numbers = answered(*runtime_, input);
    check(answer.numbers, parameters_);
    taken_ = {taken_.images + 1, taken_.decoding + decoding, taken_.resizing + resizing, taken_.network + clock.lap()};
    answer.probabilities = probabilities(answer.numbers, parameters_.answers);
    answer.order.resize(answer.numbers.size());
    std::iota(answer.order.begin(), answer.order.end(), std::size_t{0});
    std::stable_sort(answer.order.begin(), answer.order.end(), [&answer](std::size_t first, std::size_t second) {
        return answer.probabilities[first] > answer.probabilities[second];
    });
    return answer;
}

}  // namespace tlopt
