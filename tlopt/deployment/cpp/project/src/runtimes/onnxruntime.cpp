// ONNX Runtime on the processor.
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <onnxruntime_cxx_api.h>

#include "../runtime.h"

namespace tlopt {

namespace {

Ort::SessionOptions options(const Parameters& parameters, int threads) {
    Ort::SessionOptions result;
    result.SetIntraOpNumThreads(threads);
    result.SetInterOpNumThreads(1);
    result.SetGraphOptimizationLevel(GraphOptimizationLevel::ORT_ENABLE_ALL);
    // Idle threads would spin on cores that other work needs.
    result.AddConfigEntry("session.force_spinning_stop", "1");
    if (!parameters.integer_kernels) result.AddConfigEntry("session.disable_quant_qdq", "1");
    return result;
}

class OnnxRuntime final : public Runtime {
public:
    OnnxRuntime(const Parameters& parameters, int threads)
        : session_(env_, std::filesystem::path(parameters.model).c_str(), options(parameters, threads)) {
        Ort::AllocatorWithDefaultOptions allocator;
        input_ = session_.GetInputNameAllocated(0, allocator).get();
        output_ = session_.GetOutputNameAllocated(0, allocator).get();
        type_ = session_.GetInputTypeInfo(0).GetTensorTypeAndShapeInfo().GetElementType();
    }

    std::vector<float> run(const Input& input) override {
        // These must outlive the run: a tensor does not copy what it is made of.
        std::vector<Ort::Float16_t> halves;
        const Ort::Value tensor = as_tensor(input, halves);
        const char* const inputs[] = {input_.c_str()};
        const char* const outputs[] = {output_.c_str()};
        const auto results = session_.Run(Ort::RunOptions{nullptr}, inputs, &tensor, 1, outputs, 1);
        return first_of(as_floats(results.front()), input);
    }

    std::string name() const override { return "ONNX Runtime " + Ort::GetVersionString(); }

private:
    Ort::Value as_tensor(const Input& input, std::vector<Ort::Float16_t>& halves) const {
        if (type_ == ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8) return of(input.pixels, input);
        if (type_ == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT) return of(input.values, input);
        if (type_ != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16) throw Error("The model's input has an unknown type.");
        for (const float value : input.values) halves.emplace_back(value);
        return of(halves, input);
    }

    template <typename T>
    Ort::Value of(const std::vector<T>& values, const Input& input) const {
        return Ort::Value::CreateTensor<T>(memory_, const_cast<T*>(values.data()), values.size(), input.shape.data(),
                                           input.shape.size());
    }

    static std::vector<float> as_floats(const Ort::Value& value) {
        const auto info = value.GetTensorTypeAndShapeInfo();
        const std::size_t count = info.GetElementCount();
        if (info.GetElementType() == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT) {
            const auto* numbers = value.GetTensorData<float>();
            return {numbers, numbers + count};
        }
        if (info.GetElementType() != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16) {
            throw Error("The model's output has an unknown type.");
        }
        std::vector<float> numbers(count);
        const auto* halves = value.GetTensorData<Ort::Float16_t>();
        for (std::size_t i = 0; i < count; ++i) numbers[i] = halves[i].ToFloat();
        return numbers;
    }

    Ort::Env env_{ORT_LOGGING_LEVEL_FATAL, "classify"};
    Ort::Session session_;
    Ort::MemoryInfo memory_ = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    std::string input_, output_;
    ONNXTensorElementDataType type_ = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
};

}  // namespace

std::unique_ptr<Runtime> open_runtime(const Parameters& parameters, int threads) {
    return std::make_unique<OnnxRuntime>(parameters, threads);
}

}  // namespace tlopt
