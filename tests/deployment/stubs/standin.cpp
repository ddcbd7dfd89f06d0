// A stand-in for an engine. Its plan is a text: "plan", the type of the input and of the output, the smallest and the
// largest batch, the number of classes, and the input's shape without the batch; then maybe "code", and maybe "refuses" with the name of the call that
// fails. The number of class
// c is the input's value at c * (values / classes), so that a test can tell any exchange of axes or images.
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <sstream>
#include <string>

#include <NvInfer.h>

namespace {

std::string refused;  // the call that fails

cudaError_t status(const char* call) { return refused == call ? cudaErrorMemoryAllocation : cudaSuccess; }

}  // namespace

extern "C" {
cudaError_t cudaMalloc(void** place, std::size_t bytes) {
    if (refused == "cudaMalloc") return cudaErrorMemoryAllocation;
    *place = std::malloc(bytes);
    return *place ? cudaSuccess : cudaErrorMemoryAllocation;
}
cudaError_t cudaFree(void* place) {
    std::free(place);
    return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind, cudaStream_t) {
    if (refused != "cudaMemcpyAsync") std::memcpy(to, from, bytes);
    return status("cudaMemcpyAsync");
}
cudaError_t cudaStreamCreate(cudaStream_t* stream) {
    *stream = reinterpret_cast<cudaStream_t>(stream);
    return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t) { return status("cudaStreamSynchronize"); }
const char* cudaGetErrorString(cudaError_t) { return "out of memory"; }
}

namespace nvinfer1 {

namespace {

constexpr char kInput[] = "images", kOutput[] = "logits";

// Of the numbers that the tests use: no rounding, no infinities.
std::uint16_t to_half(float value) {
    if (value == 0) return 0;
    int exponent = 0;
    const float fraction = std::frexp(std::fabs(value), &exponent);
    const auto digits = static_cast<std::uint16_t>(std::lround(fraction * 2048) - 1024);
    return static_cast<std::uint16_t>((value < 0 ? 0x8000 : 0) | (((exponent + 14) << 10) + digits));
}

}  // namespace

IRuntime::IRuntime(ILogger& logger) : logger_(logger) {}

void IRuntime::setEngineHostCodeAllowed(bool allowed) noexcept { allowed_ = allowed; }

ICudaEngine* IRuntime::deserializeCudaEngine(void const* blob, std::size_t size) noexcept {
    std::istringstream plan(std::string(static_cast<char const*>(blob), size));
    std::string word, input, output, code;
    auto* engine = new ICudaEngine;
    plan >> word >> input >> output >> engine->least >> engine->most >> engine->classes;
    engine->input.nbDims = 4;
    engine->input.d[0] = -1;
    for (int i = 1; i < 4; ++i) plan >> engine->input.d[i];
    bool whole = word == "plan" && plan;
    while (plan >> code) {
        if (code == "code" && !allowed_) whole = false;
        if (code == "refuses") plan >> refused;
    }
    if (!whole) {
        logger_.log(ILogger::Severity::kERROR, "this is no plan that may be run");
        delete engine;
        return nullptr;
    }
    engine->pixels = input == "uint8";
    engine->halves = output == "float16";
    engine->values = engine->input.d[1] * engine->input.d[2] * engine->input.d[3];
    return engine;
}

int32_t ICudaEngine::getNbIOTensors() const noexcept { return 2; }

char const* ICudaEngine::getIOTensorName(int32_t index) const noexcept { return index ? kInput : kOutput; }

TensorIOMode ICudaEngine::getTensorIOMode(char const* name) const noexcept {
    return std::strcmp(name, kInput) == 0 ? TensorIOMode::kINPUT : TensorIOMode::kOUTPUT;
}

DataType ICudaEngine::getTensorDataType(char const* name) const noexcept {
    if (std::strcmp(name, kInput) == 0) return pixels ? DataType::kUINT8 : DataType::kFLOAT;
    return halves ? DataType::kHALF : DataType::kFLOAT;
}

Dims ICudaEngine::getTensorShape(char const* name) const noexcept {
    Dims answer{2, {-1, classes}};
    return std::strcmp(name, kInput) == 0 ? input : answer;
}

IExecutionContext* ICudaEngine::createExecutionContext() noexcept {
    return refused == "createExecutionContext" ? nullptr : new IExecutionContext(*this);
}

IExecutionContext::IExecutionContext(ICudaEngine const& engine) : engine_(engine) {}

bool IExecutionContext::setInputShape(char const*, Dims const& dims) noexcept {
    batch_ = dims.d[0];
    return refused != "setInputShape" && batch_ >= engine_.least && batch_ <= engine_.most;
}

Dims IExecutionContext::getTensorShape(char const* name) const noexcept {
    Dims shape = engine_.getTensorShape(name);
    shape.d[0] = refused == "getTensorShape" ? -1 : batch_;
    return shape;
}

bool IExecutionContext::setTensorAddress(char const* name, void* data) noexcept {
    if (std::strcmp(name, kInput) == 0) {
        input_ = data;
    } else {
        output_ = data;
    }
    return refused != "setTensorAddress";
}

bool IExecutionContext::enqueueV3(cudaStream_t stream) noexcept {
    if (refused == "enqueueV3" || !stream || !input_ || !output_ || !batch_) return false;
    for (int64_t image = 0; image < batch_; ++image) {
        for (int64_t c = 0; c < engine_.classes; ++c) {
            const int64_t at = image * engine_.values + c * (engine_.values / engine_.classes);
            const float value = engine_.pixels ? static_cast<std::uint8_t const*>(input_)[at]
                                               : static_cast<float const*>(input_)[at];
            const int64_t to = image * engine_.classes + c;
            if (engine_.halves) {
                static_cast<std::uint16_t*>(output_)[to] = to_half(value);
            } else {
                static_cast<float*>(output_)[to] = value;
            }
        }
    }
    return true;
}

IRuntime* createInferRuntime(ILogger& logger) noexcept { return new IRuntime(logger); }

}  // namespace nvinfer1
