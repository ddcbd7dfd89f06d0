// Image files in, classes out: what a program of your own includes.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "parameters.h"
#include "runtime.h"

namespace tlopt {

struct Answer {
    std::vector<float> numbers;         // as the network gives them
    std::vector<double> probabilities;  // of each class
    std::vector<std::size_t> order;     // the classes, most probable first
};

// Milliseconds that all images so far took.
struct Taken {
    int images = 0;
    double decoding = 0, resizing = 0, network = 0;
};

class Classifier {
public:
    // Folder: that of the model, with parameters.txt and labels.txt. Throws an Error that says what is wrong.
    explicit Classifier(const std::string& folder, int threads = 0);

    // Throws an Error for a file that is no image. One thread at a time.
    Answer classify(const std::string& path);

    const Parameters& parameters() const { return parameters_; }
    const Taken& taken() const { return taken_; }
    std::string runtime() const { return runtime_->name(); }

private:
    Parameters parameters_;
    std::unique_ptr<Runtime> runtime_;
    Taken taken_;
};

}  // namespace tlopt
