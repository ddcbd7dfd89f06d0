# tlopt on a processor: fine-tune, prune, export, quantize, measure with ONNX Runtime and OpenVINO, and
# build TensorRT for RTX engines ahead of time.
#
#   docker build -f docker/cpu.Dockerfile -t tlopt:cpu .
#   docker run --rm -v "$PWD:/work" tlopt:cpu finetune photos -o runs/tuned
FROM python:3.12-slim
WORKDIR /opt/tlopt
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY tlopt tlopt
RUN pip install --no-cache-dir --constraint constraints.txt '.[cpu,rtx,demo]'
WORKDIR /work
ENTRYPOINT ["tlopt"]
