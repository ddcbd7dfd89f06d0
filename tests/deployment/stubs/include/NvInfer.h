// A stand-in for TensorRT: the part of its C++ interface that runtimes/tensorrt.cpp uses, with the same signatures.
#pragma once

#include <cstddef>
#include <cstdint>

#include <cuda_runtime_api.h>

namespace nvinfer1 {

using AsciiChar = char;

class Dims64 {
public:
    static constexpr int32_t MAX_DIMS{8};
    int32_t nbDims;
    int64_t d[MAX_DIMS];
};
using Dims = Dims64;

enum class DataType : int32_t { kFLOAT = 0, kHALF = 1, kINT8 = 2, kINT32 = 3, kBOOL = 4, kUINT8 = 5 };
enum class TensorIOMode : int32_t { kNONE = 0, kINPUT = 1, kOUTPUT = 2 };

class ILogger {
public:
    enum class Severity : int32_t { kINTERNAL_ERROR = 0, kERROR = 1, kWARNING = 2, kINFO = 3, kVERBOSE = 4 };
    virtual void log(Severity severity, AsciiChar const* message) noexcept = 0;
    virtual ~ILogger() = default;
};

class ICudaEngine;

class IExecutionContext {
public:
    explicit IExecutionContext(ICudaEngine const& engine);
    virtual ~IExecutionContext() noexcept = default;
    bool setInputShape(char const* name, Dims const& dims) noexcept;
    Dims getTensorShape(char const* name) const noexcept;
    bool setTensorAddress(char const* name, void* data) noexcept;
    bool enqueueV3(cudaStream_t stream) noexcept;

private:
    ICudaEngine const& engine_;
    int64_t batch_{0};
    void const* input_{nullptr};
    void* output_{nullptr};
};

class ICudaEngine {
public:
    virtual ~ICudaEngine() noexcept = default;
    int32_t getNbIOTensors() const noexcept;
    char const* getIOTensorName(int32_t index) const noexcept;
    TensorIOMode getTensorIOMode(char const* name) const noexcept;
    DataType getTensorDataType(char const* name) const noexcept;
    Dims getTensorShape(char const* name) const noexcept;
    IExecutionContext* createExecutionContext() noexcept;

    // What the stand-in's plan says.
    bool pixels{false}, halves{false};
    int64_t least{1}, most{1}, values{0}, classes{0};
    Dims input{};
};

class IRuntime {
public:
    explicit IRuntime(ILogger& logger);
    virtual ~IRuntime() noexcept = default;
    void setEngineHostCodeAllowed(bool allowed) noexcept;
    ICudaEngine* deserializeCudaEngine(void const* blob, std::size_t size) noexcept;

private:
    ILogger& logger_;
    bool allowed_{false};
};

IRuntime* createInferRuntime(ILogger& logger) noexcept;

}  // namespace nvinfer1
