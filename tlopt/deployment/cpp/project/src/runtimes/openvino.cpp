// OpenVINO on the processor.
#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include <openvino/openvino.hpp>

#include "../runtime.h"

namespace tlopt {

namespace {

ov::CompiledModel compiled(ov::Core& core, const Parameters& parameters, int threads) {
    ov::AnyMap settings{ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY)};
    if (threads > 0) settings.insert(ov::inference_num_threads(threads));
    // By itself, OpenVINO computes in bf16 where the processor is faster with it.
    if (parameters.keep_float32) settings.insert(ov::hint::inference_precision(ov::element::f32));
    return core.compile_model(core.read_model(parameters.model), "CPU", settings);
}

template <typename T>
ov::Tensor filled(const ov::element::Type& type, const Input& input, const std::vector<T>& values) {
    return ov::Tensor(type, ov::Shape(input.shape.begin(), input.shape.end()), const_cast<T*>(values.data()));
}

class OpenVino final : public Runtime {
public:
    OpenVino(const Parameters& parameters, int threads)
        : compiled_(compiled(core_, parameters, threads)),
          request_(compiled_.create_infer_request()),
          type_(compiled_.input().get_element_type()) {}

    std::vector<float> run(const Input& input) override {
        // These must outlive the run: a tensor does not copy what it is made of.
        std::vector<ov::float16> halves;
        if (type_ == ov::element::u8) {
            request_.set_input_tensor(filled(type_, input, input.pixels));
        } else if (type_ == ov::element::f32) {
            request_.set_input_tensor(filled(type_, input, input.values));
        } else if (type_ == ov::element::f16) {
            halves.assign(input.values.begin(), input.values.end());
            request_.set_input_tensor(filled(type_, input, halves));
        } else {
            throw Error("The model's input has an unknown type.");
        }
        request_.infer();
        return first_of(as_floats(request_.get_output_tensor(0)), input);
    }

    std::string name() const override { return std::string("OpenVINO ") + ov::get_openvino_version().buildNumber; }

private:
    static std::vector<float> as_floats(const ov::Tensor& tensor) {
        const std::size_t count = tensor.get_size();
        if (tensor.get_element_type() == ov::element::f32) {
            return {tensor.data<float>(), tensor.data<float>() + count};
        }
        if (tensor.get_element_type() != ov::element::f16) throw Error("The model's output has an unknown type.");
        return {tensor.data<ov::float16>(), tensor.data<ov::float16>() + count};
    }

    ov::Core core_;
    ov::CompiledModel compiled_;
    ov::InferRequest request_;
    ov::element::Type type_;
};

}  // namespace

std::unique_ptr<Runtime> open_runtime(const Parameters& parameters, int threads) {
    return std::make_unique<OpenVino>(parameters, threads);
}

}  // namespace tlopt
