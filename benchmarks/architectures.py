"""Which networks go through the chain: timm's, torchvision's and odd ones, with random weights.

    python benchmarks/architectures.py [--only timm:resnet18,…] [--cpu-s 90] [--again] [--results FILE] [--page FILE]

Each network is a process of its own. It trains its classifier for an epoch on a few small images, is pruned,
exported, quantized for three runtimes, cast to fp16 and built into two engines, and predicts. A step that takes more
processor time than the limit is ended, and the steps that do not need it go on. Results are written after each
network, and a run goes on where the last one ended. The page docs/architectures.md is made of them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import multiprocessing
import os
import re
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from architecture_names import SIZES, names
from architecture_page import SKIPPED, STEPS, WORKS, page
from PIL import Image

from tlopt.publishing import write_whole

ROOT = Path(__file__).resolve().parents[1]
RESULTS, PAGE = ROOT / "benchmarks" / "results" / "architectures.json", ROOT / "docs" / "architectures.md"
SIZE, CLASSES, EACH = 64, ("dark", "light"), 12
NEEDS = {
    "prune": "finetune", "export": "finetune", "int8 onnxruntime": "export", "int8 openvino": "export",
    "int8 tensorrt": "export", "fp16": "export", "engine fp16": "fp16", "engine int8": "int8 tensorrt",
    "predict": "export",
}  # fmt: skip
RATIO = 0.3  # of the multiply-adds that pruning is asked to remove
# What every network needs is imported once; each process is a copy of the one that has it.
_IMPORTED = ["torch", "tlopt.sources.timm", "tlopt.sources.torchvision", "torch.onnx", "torch.export",
             "onnxscript.function_libs.torch_lib.ops", "tlopt.pruning.analysis", "tlopt.stages.finetune",
             "tlopt.stages.prune", "tlopt.stages.export", "tlopt.stages.quantize", "tlopt.stages.build",
             "tlopt.measure.predict"]  # fmt: skip


def chain(model: str, work: Path, done: dict[str, str], cpu_s: float, told: Connection) -> None:
    """Go through the steps that are not done, and tell of each what became of it.

    Args:
        model: The network.
        work: Folder for all that is made.
        done: Step -> what became of it, from processes before.
        cpu_s: Processor time that a step may take; then the system ends the process.
        told: Takes (step, what became of it, seconds, other findings).
    """
    os.setpgrp()
    sink = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(sink, stream)
    os.environ["TQDM_DISABLE"] = "1"
    import torch

    torch.set_num_threads(1)
    from tlopt import TloptError, verdict

    verdict.SECONDS = 0.1  # how fast they are is not the question
    said = _Said()
    logging.getLogger("tlopt").addHandler(said)
    for name, run in steps(model, work).items():
        needs = NEEDS.get(name)
        if name in done:
            continue
        start, found = time.process_time(), {}
        if needs and done[needs] != WORKS:
            done[name] = f"{SKIPPED}: {needs} failed"
        else:
            signal.setitimer(signal.ITIMER_PROF, cpu_s)
            said.texts.clear()
            try:
                found = run() or {}
                done[name] = WORKS
            except TloptError as error:
                done[name] = " ".join(error.message.split())
            except Exception as error:  # noqa: BLE001 - a fault of tlopt is what this looks for
                done[name] = f"fault: {type(error).__name__}: {' '.join(str(error).split())[:300]} ({_place(error)})"
            signal.setitimer(signal.ITIMER_PROF, 0)
            if name == "prune":
                found["kept"] = next((text for text in said.texts if text.startswith("These layers keep")), "")
        told.send((name, done[name], time.process_time() - start, found))


class _Said(logging.Handler):
    """Keeps the warnings of a step."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())


def _place(error: Exception) -> str:
    """Return where in tlopt an error came up."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/tlopt/" in frame.filename]
    return f"{frames[-1].filename.rpartition('/tlopt/')[2]}:{frames[-1].lineno}" if frames else "outside"


def steps(model: str, work: Path) -> dict[str, Callable[[], dict[str, Any] | None]]:
    """Return the steps of the chain; some return findings."""
    import tlopt

    size = SIZES.get(model, SIZE)
    odd = model.startswith("odd_architectures:")
    images = work / "images"

    def finetune() -> None:
        write_images(images, size)
        given: dict[str, Any] = {} if odd else {"weights": _weights(model, size, work / "weights.safetensors")}
        tlopt.finetune(images, work / "tuned", model=model, method="head", image_size=size,
                       cache_dir=work / "c", **given)  # fmt: skip

    def prune() -> dict[str, Any]:
        made = tlopt.prune(work / "tuned", work / "pruned", ratio=RATIO, epochs=0, samples=8, cache_dir=work / "c")
        tlopt.open_model(made)
        macs = made.card.torch.macs
        assert macs is not None
        return {"pruned": round(1 - macs.after / macs.before, 4), "asked": RATIO}

    def quantize(runtime: str) -> Callable[[], dict[str, Any]]:
        def run() -> dict[str, Any]:
            made = tlopt.quantize(work / "fp32", work / f"int8-{runtime}", for_=runtime)
            found = made.card.quantized
            assert found is not None
            assert found.measured is not None
            share = (found.eight_bit_macs or 0) / max(1, found.macs or 0)
            return {f"int8 share {runtime}": round(share, 3), f"dB {runtime}": found.measured.snr_db}

        return run

    def export() -> None:
        tlopt.export(work / "tuned", work / "fp32")

    def half() -> None:
        tlopt.quantize(work / "fp32", work / "fp16", precision="fp16", for_="tensorrt")

    def build(precision: str, source: str) -> Callable[[], None]:
        def run() -> None:
            tlopt.build(work / source, work / f"engine-{precision}", target=("sm89",))

        return run

    def predict() -> None:
        if len(list(tlopt.predict(work / "fp32", images))) != EACH * len(CLASSES):
            raise RuntimeError("not every image has an answer")

    return {
        "finetune": finetune, "prune": prune, "export": export,
        **{f"int8 {runtime}": quantize(runtime) for runtime in ("onnxruntime", "openvino", "tensorrt")},
        "fp16": half, "engine fp16": build("fp16", "fp16"), "engine int8": build("int8", "int8-tensorrt"),
        "predict": predict,
    }  # fmt: skip


def write_images(root: Path, size: int) -> None:
    """Write a few images of two classes."""
    random = np.random.default_rng(0)
    for label, name in enumerate(CLASSES):
        (root / name).mkdir(parents=True)
        for i in range(EACH):
            coarse = Image.fromarray(random.integers(0, 200, (6, 6, 3), dtype=np.uint8))
            pixels = np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC)) // 2 + 100 * label
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{i:02}.png")


def _weights(model: str, size: int, file: Path) -> Path:
    import torch
    from safetensors.torch import save_file

    from tlopt import sources

    torch.manual_seed(0)
    network = sources.build(model, classes=len(CLASSES), size=size)
    save_file({name: tensor.clone().contiguous() for name, tensor in network.state_dict().items()}, file)
    return file


def one(model: str, cpu_s: float, wall_s: float) -> dict[str, Any]:
    """Run the chain for a network, in a new process after each step that did not end."""
    context = multiprocessing.get_context("forkserver")
    done: dict[str, str] = {}
    row: dict[str, Any] = {"steps": done, "seconds": {}, "pruned": 0.0, "asked": RATIO, "kept": ""}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as work:
        while missing := [name for name in STEPS if name not in done]:
            receiver, sender = context.Pipe(duplex=False)
            child = context.Process(target=chain, args=(model, Path(work), dict(done), cpu_s, sender))
            child.start()
            sender.close()
            ended = ""
            try:
                while missing and receiver.poll(wall_s):
                    name, text, seconds, found = receiver.recv()
                    missing.remove(name)
                    done[name] = text
                    row["seconds"][name] = round(seconds, 1)
                    row.update(found)
                ended = f"not done after {wall_s:.0f} s" if missing else ""
            except EOFError:
                child.join()
                ended = (f"not done after {cpu_s:.0f} s of processor time" if child.exitcode == -signal.SIGPROF
                         else f"fault: the process ended with code {child.exitcode}")  # fmt: skip
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid or 0, signal.SIGKILL)
            child.join()
            if missing:
                done[missing[0]] = ended
    row["steps"] = {name: re.sub(re.escape(work) + r"/?", "", done[name]) for name in STEPS}
    return row


def main() -> None:
    """Run what is not run yet, and write the results after each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="networks, with commas between them")
    parser.add_argument("--cpu-s", type=float, default=90, help="processor time that a step may take")
    parser.add_argument("--wall-s", type=float, default=1800, help="time that a step may take")
    parser.add_argument("--again", action="store_true", help="run what has a result, too")
    parser.add_argument("--results", type=Path, default=RESULTS, help="file of the results")
    parser.add_argument("--page", type=Path, default=PAGE, help="page that is made of them")
    arguments = parser.parse_args()
    models = arguments.only.split(",") if arguments.only else names()
    multiprocessing.get_context("forkserver").set_forkserver_preload(_IMPORTED)
    results = json.loads(arguments.results.read_text()) if arguments.results.exists() else {}
    for model in models:
        if model not in results or arguments.again:
            results[model] = one(model, arguments.cpu_s, arguments.wall_s)
            write_whole(arguments.results, json.dumps(dict(sorted(results.items())), indent=1) + "\n")
            bad = {name: text for name, text in results[model]["steps"].items() if text != WORKS}
            took = sum(results[model]["seconds"].values())
            print(model, bad or WORKS, f"{took:.0f} s", flush=True)
    write_whole(arguments.page, page(results, len(names())))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "benchmarks"))  # the odd networks, in the processes, too
    main()
