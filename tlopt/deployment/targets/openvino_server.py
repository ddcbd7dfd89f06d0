"""A model repository of OpenVINO Model Server."""

from __future__ import annotations

import importlib.resources
import json
from pathlib import Path
from typing import Any

import numpy as np

from tlopt import registry
from tlopt.backends._batching import in_parts
from tlopt.deployment import kserve, reference, vendored
from tlopt.deployment.job import Checks, Input, Job, Written

BACKENDS = {"onnx": ("openvino",)}
INPUTS: tuple[Input, ...] = ("pixels",)
USES = frozenset({"max_batch", "instances"})
SEVERAL = False

_README = """\
# {name} for OpenVINO Model Server

{classes} classes, {precision}. A request holds pixels: uint8 (n, {shape}), RGB, {count}.
The answer is float32 (n, {classes}): {answers}, in the order of labels.txt.

    {run}
    python client.py IMAGE

client.py needs NumPy and Pillow. It decodes and resizes with decoding.py, which is tlopt's own code, and speaks
version 2 of the KServe protocol over HTTP, the pixels as raw bytes. The same over gRPC, with `pip install
tritonclient[grpc]`:

    import numpy as np
    import tritonclient.grpc
    from decoding import ANSWERS, PREPROCESS, probabilities, read_image

    pixels = {pixels}
    given = tritonclient.grpc.InferInput({input}, pixels.shape, "UINT8")
    given.set_data_from_numpy(pixels)
    client = tritonclient.grpc.InferenceServerClient("localhost:9000")
    answers = client.infer("{name}", [given]).as_numpy({output})
    print(probabilities(answers, ANSWERS)[0])

Do not send JPEG or PNG files as they are. The server would decode and resize them with OpenCV, whose resize differs:
answers change.

- `{name}/1/model.xml`, `model.bin`: the network. Version 2 goes into `{name}/2`.
- `config.json`: what the server reads. Streams say how many requests are computed at once.
- `kserve.yaml`: the InferenceService for KServe.
- `deploy.json`: what this was made of, and how it was checked.
"""


def examine(job: Job) -> None:  # noqa: ARG001 - what every target takes
    """Refuse where the library that converts graphs is missing."""
    registry.require("openvino")


def write(job: Job, folder: Path) -> Written:
    """Write the model, the server's configuration and a client."""
    import openvino

    graph = job.graph
    model = openvino.Core().read_model(graph.SerializeToString())
    if not job.fixed_batch:
        shape = model.input(0).partial_shape
        shape[0] = openvino.Dimension(1, job.max_batch)
        model.reshape({0: shape})
    place = folder / job.name / "1"
    place.mkdir(parents=True)
    openvino.save_model(model, place / "model.xml", compress_to_fp16=False)
    _write_json(folder / "config.json", {"model_config_list": [{"config": _config(job)}]})
    text = kserve.service(job, server="openvino-server", folder=job.name, settings=_plugin_config(job))
    (folder / "kserve.yaml").write_text(text, encoding="utf-8")
    (folder / vendored.DECODING).write_text(vendored.decoding(job, *vendored.FOR_PROGRAMS), encoding="utf-8")
    vendored.write_labels(folder, job.classes)
    client = (importlib.resources.files("tlopt.deployment.programs") / "client.py").read_text(encoding="utf-8")
    (folder / "client.py").write_text(client, encoding="utf-8")
    names = {"name": job.name, "input": graph.graph.input[0].name, "output": graph.graph.output[0].name}
    _write_json(folder / "client.json", {**names, "fixed_batch": job.fixed_batch})
    container = _container(openvino.__version__)
    run = (
        f'docker run --rm -v "$PWD:/models:ro" -p 8000:8000 -p 9000:9000 {container} '
        "--config_path /models/config.json --rest_port 8000 --port 9000"
    )
    shape, classes = ", ".join(map(str, job.served.input_shape)), len(job.classes)
    (folder / "README.md").write_text(
        _README.format(
            name=job.name, input=json.dumps(names["input"]), output=json.dumps(names["output"]), run=run, shape=shape,
            classes=classes, count=_count(job), pixels=_pixels(job), precision=job.card.precision,
            answers=job.answers.replace("_", " "),
        ),
        encoding="utf-8",
    )  # fmt: skip
    many = f"Every request holds {job.fixed_batch} images. client.py fills it up."
    notes = (many,) if job.fixed_batch > 1 else ()
    return Written(container=container, how=(run, "python client.py IMAGE"), notes=notes)


def problem(job: Job) -> str:
    """Return why OpenVINO cannot run the model here."""
    return reference.problem(job)


def check(job: Job, folder: Path) -> Checks:
    """Read the repository as the server does, compile the model with its settings, and compare the answers."""
    import openvino

    (entry,) = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_config_list"]
    config = entry["config"]
    core = openvino.Core()
    model = core.read_model(folder / config["base_path"] / "1" / "model.xml")
    compiled = core.compile_model(model, config["target_device"], config["plugin_config"])
    pictures = reference.images()
    names = json.loads((folder / "client.json").read_text(encoding="utf-8"))
    size = job.fixed_batch or (job.max_batch if job.max_batch < len(pictures) else 0)
    found = in_parts(
        lambda part: np.asarray(compiled({names["input"]: part})[names["output"]], np.float32),
        reference.pixels(job, pictures), size,
    )  # fmt: skip
    wanted = reference.answers(job, pictures)
    difference, agreement = reference.compared(job, wanted, found, "The model for OpenVINO Model Server")
    streams = compiled.get_property("NUM_STREAMS")
    return Checks(
        by=f"OpenVINO {openvino.__version__.partition('-')[0]}",
        images=len(pictures),
        difference=difference,
        agreement=agreement,
        proves=(
            f"OpenVINO reads the repository with the server's settings (streams here: {streams}), and the model "
            "answers as the artifact does.",
        ),
        leaves_open=("The server itself was not started: it comes as a container, and in no package of Python's.",),
    )


def _count(job: Job) -> str:
    """Return how many images a request holds, in words."""
    if job.fixed_batch > 1:
        return f"n always {job.fixed_batch}. client.py fills a request up and leaves the answers for that out"
    return f"n at most {job.max_batch}"


def _pixels(job: Job) -> str:
    """Return the code that makes a request's pixels of an image."""
    one = 'PREPROCESS.pixels(read_image("image.jpg"))'
    return f"np.stack([{one}] * {job.fixed_batch})" if job.fixed_batch > 1 else f"{one}[None]"


def _config(job: Job) -> dict[str, Any]:
    """Return what config.json says of the model; its path is relative to that file."""
    requests = {"nireq": job.instances} if job.instances else {}
    return {
        "name": job.name,
        "base_path": job.name,
        "target_device": "CPU",
        **requests,
        "plugin_config": _plugin_config(job),
    }


def _plugin_config(job: Job) -> dict[str, str]:
    """Return OpenVINO's settings: as many streams as instances, or as many as OpenVINO finds best where it runs."""
    chosen = {"PERFORMANCE_HINT": "THROUGHPUT"}
    if job.instances:
        chosen["NUM_STREAMS"] = str(job.instances)
    # OpenVINO computes in bf16 by itself where that is faster; then it is not the precision that was measured.
    return chosen | ({"INFERENCE_PRECISION_HINT": "f32"} if job.card.precision in ("fp32", "int8") else {})


def _container(version: str) -> str:
    """Return the server's image of the release of OpenVINO that is installed here."""
    year, release = version.split(".")[:2]
    return f"openvino/model_server:{year}.{release}.0"


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
