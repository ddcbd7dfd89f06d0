// What runs the network. One of the files in runtimes/ is compiled.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "parameters.h"
#include "preprocess.h"

namespace tlopt {

class Runtime {
public:
    virtual ~Runtime() = default;

    // The network's numbers for the first image of a batch, one for each class or more.
    virtual std::vector<float> run(const Input& input) = 0;

    // Library and version.
    virtual std::string name() const = 0;
};

// Opens the model. Threads: of the processor; 0 leaves them to the library.
std::unique_ptr<Runtime> open_runtime(const Parameters& parameters, int threads);

// The first image's numbers out of those of a batch.
std::vector<float> first_of(std::vector<float> numbers, const Input& input);

}  // namespace tlopt
