"""What benchmarks/gpu.py has measured, where it is kept, and the artifacts that its steps share."""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tlopt.publishing import write_whole

DEFAULT = "pip:efficientnet_lite0"  # the network that is measured unless another is named


class Session:
    """What has been measured, where it is kept, and the artifacts that the steps share."""

    def __init__(self, options: argparse.Namespace) -> None:
        from tlopt.engine.gpu import gpu

        here = gpu()
        self.options = options
        self.device = "rehearsal" if options.rehearse else here.name if here else "none"
        self.batches = tuple(options.batches)
        self.ends = time.monotonic() + 60 * options.minutes
        options.out.mkdir(parents=True, exist_ok=True)
        self.file = options.out / f"gpu-{_slug(self.device)}{self._network()}.json"
        found = json.loads(self.file.read_text(encoding="utf-8")) if self.file.exists() else {}
        self.results: dict[str, Any] = found.get("results", {})
        self.skipped: dict[str, str] = found.get("skipped", {})
        self.partial: dict[str, list[Any]] = found.get("partial", {})
        self.rows: list[Any] = []  # of the step under way: what it has found so far is kept if it fails
        command = "python benchmarks/gpu.py " + " ".join(sys.argv[1:])
        self.commands = list(dict.fromkeys([*found.get("conditions", {}).get("commands", []), command]))

    def _network(self) -> str:
        """Return what tells a network's results from those of the default one: a step is done once for each."""
        name = self.options.model.partition(":")[2]
        return "" if self.options.rehearse or name == DEFAULT.partition(":")[2] else f"-{_slug(name)}"

    def save(self) -> None:
        """Write all that is known."""
        from tlopt.environment import processor, versions

        content = {
            "title": f"GPU side of tlopt on {self.device}",
            "conditions": {
                "device": self.device,
                "processor": processor(),
                "versions": versions(),
                "commands": self.commands,
                "images": self.options.images.name,
                "model": self.options.model,
                "batches": list(self.batches),
            },
            "results": self.results,
            "skipped": self.skipped,
            "partial": self.partial,
        }
        write_whole(self.file, json.dumps(content, indent=1, default=str) + "\n")

    def do(self, name: str, work: Callable[[Session], Any]) -> None:
        """Do a step and save: whatever happens later, in this step or the next, what was measured is not lost."""
        print(f"{name} …", file=sys.stderr, flush=True)
        started = time.monotonic()
        self.skipped.pop(name, None)
        self.partial.pop(name, None)
        self.rows = []
        try:
            result = work(self)
        except Exception as error:  # noqa: BLE001 -- reported; the other steps go on
            if self.options.verbose:
                traceback.print_exc()
            self.skipped[name] = " ".join(f"{type(error).__name__}: {error}".split())
            if self.rows:
                self.partial[name] = self.rows
            print(f"  skipped: {self.skipped[name]}", file=sys.stderr, flush=True)
        else:
            self.results[name] = {"seconds": round(time.monotonic() - started, 1), "found": result}
        self.save()

    def made(self, name: str, make: Callable[[Path], Any]) -> Any:
        """Return an artifact of the work folder, made if it is not there."""
        from tlopt.artifact import Artifact
        from tlopt.cards.card import CARD_NAME

        place = self.options.work / name
        return Artifact.load(place) if (place / CARD_NAME).exists() else make(place)

    def finetune(self, out: Path, **settings: Any) -> Any:
        """Fine-tune the whole network on the images."""
        from tlopt.stages.finetune import finetune

        options = self.options
        return finetune(
            options.images,
            out,
            model=options.model,
            image_size=options.image_size,
            weights=options.weights,
            force=True,
            **{"method": "full", **settings},
        )

    def tuned(self) -> Any:
        """Return the fine-tuned network."""
        return self.made("tuned", lambda out: self.finetune(out, epochs=2))

    def network(self, precision: str) -> Any:
        """Return the ONNX artifact of a precision."""
        from tlopt.stages.export import export
        from tlopt.stages.quantize import quantize

        if precision == "fp32":
            return self.made("fp32", lambda out: export(self.tuned(), out))
        return self.made(
            precision, lambda out: quantize(self.network("fp32"), out, precision=precision, for_="tensorrt")
        )

    def engine(self, precision: str, batch: int, name: str = "", **options: Any) -> Any:
        """Return the engine for one batch, tuned for it and for no other."""
        build = self._builder()
        return self.made(
            f"engine-{precision}-{batch}{name}",
            lambda out: build(self.network(precision), out, opt_batch=batch, max_batch=batch, **options),
        )

    def _builder(self) -> Any:
        if self.options.rehearse:
            import rehearsal

            return rehearsal.build
        from tlopt.stages.build import build

        return lambda network, out, **options: build(network, out, target=("current",), **options)

    def backends(self, kind: str) -> tuple[str, ...]:
        """Return the ways to run artifacts of a kind that are measured."""
        if self.options.rehearse and kind != "tensorrt":
            return ("torch:cpu",) if kind == "torch" else ("onnxruntime:cpu",)
        return {
            "torch": ("torch:cuda", "torch:cuda-half", "torch:cuda-half-compiled"),
            "onnx": ("onnxruntime:cuda",),
            "tensorrt": ("tensorrt:cuda", "tensorrt:cuda-graphs"),
        }[kind]

    def bench(self, artifacts: list[Any], kind: str, batches: tuple[int, ...], **settings: Any) -> list[Any]:
        """Return the rows of `tlopt bench`."""
        from tlopt.measure.bench import bench

        found = bench(
            artifacts,
            batch=batches,
            backend=self.backends(kind),
            seconds=self.options.seconds,
            memory=False,
            **settings,
        )
        rows = [dict(row) for row in found.rows]
        reasons = [str(row["skipped"]) for row in rows if "skipped" in row]
        if reasons and len(reasons) == len(rows):
            raise RuntimeError(reasons[0])
        return rows

    def runs(self, wanted: int) -> int:
        """Return how often something is run: seldom in a rehearsal."""
        return min(wanted, 20) if self.options.rehearse else wanted


def open_runner(engine: Any, device: str, **settings: Any) -> Any:
    """Return an engine's runner."""
    from tlopt.backends.tensorrt import Runner

    return Runner(engine, device=device, **settings)


def inputs_of(engine: Any, size: int) -> Any:
    """Return a batch of preprocessed images, as the engine takes it."""
    from tlopt.measure.speed.feeds import Inputs

    return Inputs(None, noise=False, largest=size).of(engine)[:size]


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
