# tlopt with everything that an NVIDIA GPU needs: TensorRT, TensorRT for RTX, ONNX Runtime with CUDA,
# pycuda, PyTorch with CUDA.
#
#     docker build -f docker/gpu.Dockerfile -t tlopt:gpu .
#     docker run --rm --gpus all --user "$(id -u):$(id -g)" -v "$PWD:/data" tlopt:gpu doctor
#
# Needs the NVIDIA Container Toolkit on the host. This image has not yet been built: it was written
# where neither Docker nor a GPU was at hand. TensorRT and CUDA come under NVIDIA's own licences.

ARG CUDA=13.0.1
ARG UBUNTU=24.04

# pycuda has no wheels: it is compiled here, against this CUDA, and the compiler stays behind.
FROM nvidia/cuda:${CUDA}-devel-ubuntu${UBUNTU} AS wheels
# Versions of Ubuntu's packages go away with each update of it: they are not pinned.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ python3-dev python3-pip python3-venv \
    && rm -rf /var/lib/apt/lists/*
ENV CUDA_ROOT=/usr/local/cuda PATH=/usr/local/cuda/bin:${PATH}
# The driver's library is not in an image; its stub is enough to link against.
ENV LIBRARY_PATH=/usr/local/cuda/lib64/stubs
RUN python3 -m venv /opt/build && /opt/build/bin/pip wheel --no-cache-dir --no-deps --wheel-dir /wheels pycuda

FROM nvidia/cuda:${CUDA}-runtime-ubuntu${UBUNTU}
# Versions of Ubuntu's packages go away with each update of it: they are not pinned.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/tlopt
ENV PATH=/opt/tlopt/bin:${PATH}
COPY --from=wheels /wheels /wheels
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY tlopt ./tlopt
RUN pip install --no-cache-dir --constraint constraints.txt --find-links /wheels '.[gpu,rtx]' && rm -rf /wheels
# torch.compile needs the compiler. Whoever --user names can write here; results go to the folder mounted at /data.
ENV HOME=/home/tlopt
# Ubuntu's image has a user of the number 1000.
RUN useradd --home-dir "$HOME" --create-home --uid 1001 tlopt && chmod 777 "$HOME"
USER 1001
WORKDIR /data
ENTRYPOINT ["tlopt"]
CMD ["--help"]
