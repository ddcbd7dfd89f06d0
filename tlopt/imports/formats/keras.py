"""Keras files: a classifier that was saved by Keras 3 becomes an ONNX graph like any other's.

Keras runs in a process of its own, on its PyTorch backend. Before it reads the file, the description in it is
searched for what would run code: only layers of Keras itself are opened.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tlopt.errors import ArtifactError
from tlopt.imports.formats.comparison import Original
from tlopt.imports.formats.conversion import Library, converted
from tlopt.reading import files
from tlopt.reading.names import shown_name
from tlopt.reading.schema import SchemaError, parse_json

SUFFIX = ".keras"
_CONFIG = "config.json"
_LARGEST = 64 << 20  # bytes of a description
_RUNS_CODE = frozenset({"Lambda", "__lambda__", "TorchModuleWrapper", "TFSMLayer", "JaxLayer", "FlaxLayer"})
_OWN = ("keras", "builtins")
_HINT = "Export it where its code is: model.export('model.onnx', format='onnx'). Then import the ONNX file."
_KERAS = Library(
    name="Keras", module="tlopt.imports.formats.keras_export", needs="A Keras file needs Keras 3.",
    install="tlopt[keras]", hint=_HINT, environment={"KERAS_BACKEND": "torch", "KERAS_HOME": "{folder}"},
)  # fmt: skip

# How the name of a network of keras.applications begins -> the preset of its preprocessing.
_FAMILIES = {
    r"mobilenetv2": "mobilenet_v2", r"mobilenet_v?3|mobilenetv3": "mobilenet_v3", r"mobilenet_": "mobilenet",
    r"resnet\d+v2": "resnet_v2", r"resnet\d+$": "resnet", r"vgg16": "vgg16", r"vgg19": "vgg19",
    r"densenet\d+": "densenet", r"inception_v3": "inception_v3", r"inception_resnet_v2": "inception_resnet_v2",
    r"xception": "xception", r"nasnet": "nasnet", r"efficientnetv2": "efficientnet_v2",
    r"efficientnetb\d": "efficientnet", r"convnext": "convnext",
}  # fmt: skip


def is_keras(file: Path) -> bool:
    """Whether a file is to be read as one of Keras."""
    return file.suffix.lower() == SUFFIX


def read(file: Path, *, size: int | None = None, width: int | None = None) -> Original:
    """Return the network of a Keras file as a plain graph, channels first but for the input, and what Keras answers.

    Args:
        file: What Keras saved.
        size: Side of the image, or its height, where the network takes any.
        width: Of the image, likewise.

    Raises:
        ArtifactError: It is no Keras file, holds code of its own, or Keras cannot open or export it.
        MissingLibraryError: Keras is not installed.
    """
    _expect_plain(description(file), file)
    return converted(_KERAS, file, size=size, width=width)


def description(file: Path) -> Mapping[str, Any]:
    """Return what a Keras file says of its network.

    Raises:
        ArtifactError: It is no Keras file.
    """
    try:
        with files.open_regular(file) as opened, zipfile.ZipFile(opened) as archive:
            if archive.getinfo(_CONFIG).file_size > _LARGEST:
                raise ArtifactError(f"The config.json in {file} is too large.")
            found = parse_json(archive.read(_CONFIG).decode(), finite=False)
    except (OSError, KeyError, ValueError, SchemaError, zipfile.BadZipFile, NotImplementedError, EOFError) as error:
        raise ArtifactError(
            f"{file} is no file of Keras 3: {error}", hint="Save it with Keras 3: model.save('model.keras')."
        ) from error
    if not isinstance(found, dict):
        raise ArtifactError(f"{file} is no file of Keras 3: its config.json is no JSON object.")
    return found


def family(config: Mapping[str, Any]) -> str:
    """Return the preset of a network that is one of ``keras.applications``, empty for any other.

    One that has such a network as its first layer is fed like it.
    """
    inner: Any = config.get("config", {})
    layers = [one for one in inner.get("layers", ()) if isinstance(one, dict)] if isinstance(inner, dict) else []
    first = next((one for one in layers if one.get("class_name") != "InputLayer"), {})
    nested = first.get("config", {}) if first.get("class_name") in ("Functional", "Model") else {}
    for name in (inner.get("name", "") if isinstance(inner, dict) else "", nested.get("name", "")):
        for pattern, preset in _FAMILIES.items():
            if isinstance(name, str) and re.match(pattern, name.lower()):
                return f"keras:{preset}"
    return ""


def _expect_plain(config: object, file: Path) -> None:
    for module, name in _classes(config):
        if name in _RUNS_CODE or module.partition(".")[0] not in _OWN:
            raise ArtifactError(
                f"{file} holds {shown_name(name)} of {shown_name(module)}, which is code. Only layers of Keras are "
                "read.",
                hint=_HINT,
            )


def _classes(config: object) -> Iterator[tuple[str, str]]:
    """Yield module and name of each class and function that a description names."""
    if isinstance(config, dict):
        if isinstance(config.get("class_name"), str):
            module = config.get("module")
            # Without a module Keras looks the name up among its own and among registered ones.
            yield (module if isinstance(module, str) else "keras"), config["class_name"]
            registered = config.get("registered_name")
            if isinstance(registered, str) and ">" in registered and not registered.startswith("keras>"):
                yield registered.partition(">")[0], config["class_name"]
        for value in config.values():
            yield from _classes(value)
    elif isinstance(config, list):
        for value in config:
            yield from _classes(value)
