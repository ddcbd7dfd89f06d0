# tlopt on a processor: fine-tune, prune, export, quantize, measure with ONNX Runtime and OpenVINO, and
# build TensorRT for RTX engines ahead of time.
#
#   docker build -f docker/cpu.Dockerfile -t tlopt:cpu .
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/data" tlopt:cpu finetune images -o runs/tuned
#
# PyPI's torch for x86-64 is the one for CUDA, several gigabytes of it. PyTorch's own index has 2.13.0+cpu, which the
# constraint allows and pip takes for newer. docs/deploy.md says what was checked of this file without Docker.
FROM python:3.12-slim
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY tlopt tlopt
RUN pip install --no-cache-dir --disable-pip-version-check --constraint constraints.txt \
        --extra-index-url https://download.pytorch.org/whl/cpu '.[cpu,rtx,demo]'
# Whoever --user names can write here; results go to the folder mounted at /data.
ENV HOME=/home/tlopt
RUN useradd --home-dir "$HOME" --create-home --uid 1000 tlopt && chmod 777 "$HOME"
USER 1000
WORKDIR /data
ENTRYPOINT ["tlopt"]
CMD ["--help"]
