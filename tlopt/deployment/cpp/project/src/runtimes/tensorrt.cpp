// A TensorRT engine, of either kind, on the first NVIDIA GPU.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include <NvInfer.h>
#include <cuda_runtime_api.h>

#include "../runtime.h"

namespace tlopt {

namespace {

void check(cudaError_t status, const std::string& what) {
    if (status != cudaSuccess) throw Error("CUDA cannot " + what + ": " + cudaGetErrorString(status) + ".");
}

class Logger final : public nvinfer1::ILogger {
public:
    void log(Severity severity, const char* message) noexcept override {
        if (severity <= Severity::kERROR) std::cerr << "TensorRT: " << message << '\n';
    }
};

// Memory of the GPU.
class Buffer {
public:
    explicit Buffer(std::size_t bytes) { check(cudaMalloc(&place_, bytes), "reserve memory"); }
    ~Buffer() { cudaFree(place_); }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    void* get() const { return place_; }

private:
    void* place_ = nullptr;
};

class Stream {
public:
    Stream() { check(cudaStreamCreate(&stream_), "make a stream"); }
    ~Stream() { cudaStreamDestroy(stream_); }
    Stream(const Stream&) = delete;
    Stream& operator=(const Stream&) = delete;
    cudaStream_t get() const { return stream_; }

private:
    cudaStream_t stream_ = nullptr;
};

// A number of IEEE 754 with 16 bits.
float from_half(std::uint16_t bits) {
    const int exponent = bits >> 10 & 31, fraction = bits & 1023;
    const float sign = bits >> 15 ? -1.0F : 1.0F;
    if (exponent == 0) return sign * std::ldexp(static_cast<float>(fraction), -24);
    if (exponent == 31) return fraction ? NAN : sign * INFINITY;
    return sign * std::ldexp(static_cast<float>(fraction + 1024), exponent - 25);
}

std::size_t count_of(const nvinfer1::Dims& dims) {
    std::size_t count = 1;
    for (int i = 0; i < dims.nbDims; ++i) {
        if (dims.d[i] < 0) throw Error("TensorRT does not know the shape of the engine's input or output.");
        count *= static_cast<std::size_t>(dims.d[i]);
    }
    return count;
}

Bytes engine_of(const std::string& path) {
    try {
        return read_file(path);
    } catch (const Error& error) {
        throw Error(path + " cannot be used: " + error.what() + ".");
    }
}

class TensorRt final : public Runtime {
public:
    explicit TensorRt(const Parameters& parameters) : parameters_(parameters) {
        runtime_.reset(nvinfer1::createInferRuntime(logger_));
        if (!runtime_) throw Error("TensorRT does not start: is there a GPU with its driver?");
        runtime_->setEngineHostCodeAllowed(parameters.engine_code);
        const Bytes plan = engine_of(parameters.model);
        engine_.reset(runtime_->deserializeCudaEngine(plan.data(), plan.size()));
        if (!engine_) throw Error("TensorRT cannot open the engine: README.md says which version and GPU it is for.");
        context_.reset(engine_->createExecutionContext());
        if (!context_) throw Error("TensorRT cannot make an execution context.");
        for (std::int32_t i = 0; i < engine_->getNbIOTensors(); ++i) {
            const char* name = engine_->getIOTensorName(i);
            const bool is_input = engine_->getTensorIOMode(name) == nvinfer1::TensorIOMode::kINPUT;
            std::string& kept = is_input ? input_ : output_;
            if (kept.empty()) kept = name;
        }
        prepare();
    }

    std::vector<float> run(const Input& input) override {
        const void* from = parameters_.takes_pixels ? static_cast<const void*>(input.pixels.data())
                                                    : static_cast<const void*>(input.values.data());
        if (input.pixels.size() + input.values.size() * sizeof(float) != input_bytes_) {
            throw Error("The engine takes other images than its parameters say.");
        }
        check(cudaMemcpyAsync(device_input_->get(), from, input_bytes_, cudaMemcpyHostToDevice, stream_.get()),
              "copy the input");
        if (!context_->enqueueV3(stream_.get())) throw Error("TensorRT cannot run the engine.");
        std::vector<std::uint8_t> answer(output_bytes_);
        check(cudaMemcpyAsync(answer.data(), device_output_->get(), output_bytes_, cudaMemcpyDeviceToHost, stream_.get()),
              "copy the output");
        check(cudaStreamSynchronize(stream_.get()), "finish");
        return first_of(as_floats(answer), input);
    }

    std::string name() const override {
        return "TensorRT";
    }

private:
    std::vector<float> as_floats(const std::vector<std::uint8_t>& answer) const {
        std::vector<float> numbers(outputs_);
        if (!halves_) {
            std::memcpy(numbers.data(), answer.data(), answer.size());
            return numbers;
        }
        for (std::size_t i = 0; i < outputs_; ++i) {
            std::uint16_t bits;
            std::memcpy(&bits, answer.data() + i * sizeof bits, sizeof bits);
            numbers[i] = from_half(bits);
        }
        return numbers;
    }

    void prepare() {
        const auto wanted = parameters_.takes_pixels ? nvinfer1::DataType::kUINT8 : nvinfer1::DataType::kFLOAT;
        const auto given = engine_->getTensorDataType(output_.c_str());
        halves_ = given == nvinfer1::DataType::kHALF;
        if (engine_->getTensorDataType(input_.c_str()) != wanted || (!halves_ && given != nvinfer1::DataType::kFLOAT)) {
            throw Error("The engine's input or output has another type than its parameters say.");
        }
        nvinfer1::Dims shape = engine_->getTensorShape(input_.c_str());
        shape.d[0] = parameters_.batch;
        if (!context_->setInputShape(input_.c_str(), shape)) {
            throw Error("The engine does not take a batch of " + std::to_string(parameters_.batch) + ".");
        }
        input_bytes_ = count_of(shape) * (parameters_.takes_pixels ? sizeof(std::uint8_t) : sizeof(float));
        outputs_ = count_of(context_->getTensorShape(output_.c_str()));
        device_input_ = std::make_unique<Buffer>(input_bytes_);
        output_bytes_ = outputs_ * (halves_ ? sizeof(std::uint16_t) : sizeof(float));
        device_output_ = std::make_unique<Buffer>(output_bytes_);
        place(input_, *device_input_);
        place(output_, *device_output_);
    }

    void place(const std::string& name, const Buffer& buffer) {
        if (!context_->setTensorAddress(name.c_str(), buffer.get())) {
            throw Error("TensorRT does not take the memory for " + name + ".");
        }
    }

    const Parameters parameters_;
    Logger logger_;
    Stream stream_;
    // In the order in which they are made, so that each is freed before what it came from.
    std::unique_ptr<nvinfer1::IRuntime> runtime_;
    std::unique_ptr<nvinfer1::ICudaEngine> engine_;
    std::unique_ptr<nvinfer1::IExecutionContext> context_;
    std::string input_, output_;
    std::size_t input_bytes_ = 0, output_bytes_ = 0, outputs_ = 0;
    bool halves_ = false;
    std::unique_ptr<Buffer> device_input_, device_output_;
};

}  // namespace

std::unique_ptr<Runtime> open_runtime(const Parameters& parameters, int) {
    return std::make_unique<TensorRt>(parameters);
}

}  // namespace tlopt
