// What the network expects and what its numbers mean: the file parameters.txt beside the model.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "resample.h"

namespace tlopt {

enum class Answers { logits, probabilities, log_probabilities, sigmoids };

struct Parameters {
    std::string model;                // path of the model's file
    std::vector<std::string> labels;  // in the order of the network's numbers
    Answers answers = Answers::logits;
    int size = 0;                  // side of the square that the network sees, pixels
    int side = 0;                  // shorter side of the resized image, pixels
    Filter filter = Filter::bicubic;
    bool columns_first_if_tall = false;  // as the Pillow does that the network was measured with
    bool channels_last = false;    // the input is (n, size, size, 3), not (n, 3, size, size)
    bool bgr = false;              // blue comes first
    bool takes_pixels = false;     // the input is uint8 (n, size, size, 3) RGB; scale and shift are inside
    std::array<float, 3> scale{};  // input = pixel * scale + shift, in the order of the network's channels
    std::array<float, 3> shift{};
    int batch = 1;                 // images that a run takes at least; one is repeated to fill it
    bool keep_float32 = true;      // do not lower the precision of float operators
    bool integer_kernels = true;   // fuse quantized operators into integer kernels
    bool engine_code = false;      // the engine carries code for the processor, which is to be run
};

// Reads parameters.txt and labels.txt of a folder.
Parameters read_parameters(const std::string& folder);

}  // namespace tlopt
