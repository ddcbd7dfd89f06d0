"""README.md of the C++ project: how it is built with each runtime, and how it is used."""

from __future__ import annotations

from tlopt.cards.details import EngineDetails
from tlopt.deployment.job import Job

_TEXT = """\
# {name} in C++

`classify` reads JPEG and PNG files and prints the most probable classes. It is C++17.
It needs libjpeg-turbo, libpng and zlib, and {libraries}.

    sudo apt-get install cmake g++ libjpeg-dev libpng-dev zlib1g-dev

## Build

{builds}
## Use

    build/classify image.jpg other.png
    build/classify --json --top 3 image.jpg
    build/classify --help

The program takes the folder `model/` from here. `--model FOLDER` names another place.
`model/` has the network, its class names and `parameters.txt`, which says how images are fed to it.

In a program of your own, link the library `classifier`:

    #include "classifier.h"

    tlopt::Classifier classifier("model");
    tlopt::Answer answer = classifier.classify("image.jpg");
    std::size_t best = answer.order[0];
    // classifier.parameters().labels[best], answer.probabilities[best]

## The network

{facts}

## What is the same as in tlopt

- Resizing is Pillow's, to the bit: two passes of integer arithmetic with antialiasing.
- EXIF orientation, CMYK, palettes, transparency over white, 16 bits and grey are treated alike.
- PNG files give the same pixels. JPEG files do where the decoder is libjpeg-turbo, as Pillow's is.
  Another version of it may differ by 1 of 255 in some pixels.

`classify --decoded` and `classify --pixels` write what was decoded and what the network sees.
Compare these first if answers differ.

Not read: GIF, BMP, WebP, AVIF and TIFF. A file that is truncated, or whose checksums are wrong, is an error.

Licence of the code: Apache-2.0.
"""

_BUILDS = {
    "openvino": """\
With OpenVINO, whose Python package has headers and libraries, too. CMake asks `python3` where it is:

    python3 -m pip install {openvino}
    cmake -B build -DRUNTIME=openvino
    cmake --build build

With OpenVINO's archives, `source setupvars.sh` first.
""",
    "onnxruntime": """\
With ONNX Runtime, unpacked from a release for C++ (onnxruntime-linux-x64-*.tgz), or from Debian's libonnxruntime-dev:

    cmake -B build -DRUNTIME=onnxruntime -DONNXRUNTIME_ROOT=/opt/onnxruntime
    cmake --build build
""",
    "tensorrt": """\
With {title}, the version below, and CUDA:

    cmake -B build -DRUNTIME=tensorrt -DTENSORRT={library} -DTENSORRT_ROOT=/opt/tensorrt
    cmake --build build
""",
}
_NAMES = {"openvino": "OpenVINO", "onnxruntime": "ONNX Runtime", "tensorrt": "TensorRT"}
_TITLES = {"tensorrt": ("TensorRT", "nvinfer"), "rtx": ("TensorRT for RTX", "tensorrt_rtx")}


def readme(job: Job, runtimes: tuple[str, ...], openvino: str) -> str:
    """Return the text of README.md.

    Args:
        job: The deployment.
        runtimes: What can run the network, the one that it is made for first.
        openvino: Requirement for pip.
    """
    title, library = _TITLES[job.card.engine.flavour if job.kind == "tensorrt" else "tensorrt"]
    builds = "\n".join(_BUILDS[runtime].format(openvino=openvino, title=title, library=library) for runtime in runtimes)
    return _TEXT.format(
        name=job.name,
        libraries=" or ".join(_NAMES[runtime] for runtime in runtimes),
        builds=builds,
        facts="\n".join(f"- {fact}" for fact in _facts(job)),
    )


def _facts(job: Job) -> list[str]:
    """Return what is worth knowing about the network, a line each."""
    found = [
        f"{job.card.model}, {job.card.precision}, {len(job.classes)} classes, {job.answers.replace('_', ' ')}",
        job.served.summary(),
    ]
    if job.card.made_for:
        found.append(f"quantized or cast for {_NAMES[job.card.made_for]}: build with that")
    if job.kind == "tensorrt":
        found.append(_engine(job.card.engine))
    return found


def _engine(details: EngineDetails) -> str:
    title = _TITLES[details.flavour][0]
    where = f"{details.device} ({', '.join(details.targets)})" if details.device else ", ".join(details.targets)
    version = "or newer" if details.options.version_compatible else "and no other version"
    return f"an engine of {title} {details.version} {version}, for {where}"
