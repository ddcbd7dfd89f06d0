#!/bin/sh
# Everything GPU-side in one command, on a Linux machine with an NVIDIA GPU and its driver:
#
#     benchmarks/gpu.sh --images DIR
#
# It makes an environment with the gpu extra (TensorRT, ONNX Runtime with CUDA, pycuda: the last is
# compiled on installation and needs nvcc and a C++ compiler), then builds, verifies and measures:
# torch eager, compiled and with autocast; ONNX Runtime with CUDA; TensorRT in fp32, fp16, int8 and fp8 with CUDA
# graphs on and off, batches of 1 to 256, 1 to 4 streams; fine-tuning. What is missing is skipped
# with its reason. The result is benchmarks/results/gpu-<device>.json.
#
# The steps without TensorRT have run on an H200, the others were rehearsed (--rehearse). Where there is no pip, start
# benchmarks/gpu.py itself: it skips what is missing.
set -eu
cd "$(dirname "$0")/.."
venv=${VENV:-.venv-gpu}
if [ ! -x "$venv/bin/python" ]; then
    "${PYTHON:-python3}" -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet --editable '.[demo]'
    # One by one: what does not install here is skipped below with its reason, the rest is measured.
    for package in onnxruntime-gpu tensorrt pycuda cuda-bindings nvidia-ml-py; do
        "$venv/bin/python" -m pip install --quiet "$package" || echo "$package does not install here" >&2
    done
fi
exec "$venv/bin/python" benchmarks/gpu.py "$@"
