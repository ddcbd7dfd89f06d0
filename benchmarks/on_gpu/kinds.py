"""Steps of benchmarks/gpu.py on training, on kinds of engines, and on what they answer."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from typing import Any

from on_gpu.session import Session, inputs_of, open_runner


def training(**settings: Any) -> Callable[[Session], Any]:
    """Fine-tune for two epochs; the second one's speed counts, since the first loads and compiles."""

    def work(session: Session) -> Any:
        made = session.finetune(session.options.work / "trained", epochs=2, **settings)
        step = made.card.lineage[-1]
        epochs = [json.loads(line) for line in (made.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        if not session.options.rehearse and session.device not in step.device:
            raise RuntimeError(f"the training ran on {step.device}, not on {session.device}")
        return {"device": step.device, "settings": dict(step.settings), "seconds": step.seconds, "epochs": epochs}

    return work


def several_gpus(session: Session) -> Any:
    """Fine-tune on all GPUs with torchrun."""
    import torch

    count = torch.cuda.device_count()
    if count < 2:
        raise RuntimeError(f"there are {count} GPUs here")
    options = session.options
    out = options.work / "several"
    command = ["torchrun", "--no-python", f"--nproc-per-node={count}", "tlopt", "finetune", str(options.images)]
    command += ["-o", str(out), "--model", options.model, "--epochs", "2", "--force", "--method", "full"]
    started = time.monotonic()
    subprocess.run(command, check=True)
    return {"gpus": count, "seconds": time.monotonic() - started}


def refit(session: Session) -> Any:
    """Give a refittable engine the weights that it has: nothing may change."""
    size = max(session.batches)
    engine = session.engine("fp16", size, "-refit", refit=True)
    with open_runner(engine, "cuda-graphs") as runner:
        inputs = inputs_of(engine, size)
        before = [runner(inputs) for _ in range(3)][-1]
        started = time.perf_counter()
        runner.refit(session.network("fp16").payload(".onnx"))
        seconds = time.perf_counter() - started
        after = [runner(inputs) for _ in range(3)][-1]
    return {"refit_seconds": seconds, "largest_difference": float(abs(after - before).max())}


def variant(name: str, **options: Any) -> Callable[[Session], Any]:
    """Build and open a kind of engine: how long both take, how large it is, and whether it answers alike."""

    def work(session: Session) -> Any:
        size = max(session.batches)
        chosen = dict(options)
        if "timing_cache" in chosen:
            chosen["timing_cache"] = session.options.work / "timing-cache"
        plain = session.engine("fp16", size)
        built = session.engine("fp16", size, f"-{name}", **chosen)
        inputs = inputs_of(plain, size)
        answers = []
        started = time.perf_counter()
        for engine in (built, plain):
            with open_runner(engine, "cuda") as runner:
                answers.append(runner(inputs))
        return {
            "build_seconds": built.card.lineage[-1].seconds,
            "size_mb": built.size_mb,
            "open_both_seconds": time.perf_counter() - started,
            "largest_difference": float(abs(answers[0] - answers[1]).max()),
        }

    return work


def runtime_cache(session: Session) -> Any:
    """Time the way from opening an engine of TensorRT for RTX to its first answer, without and with a runtime cache.

    Its kernels are compiled when an engine first runs. The cache keeps them.
    """
    size = max(session.batches)
    engine = session.engine("fp16", size, "-rtx", flavour="rtx")
    inputs = inputs_of(engine, size)
    file = session.options.work / "runtime.cache"
    file.unlink(missing_ok=True)
    taken = {}
    for name, cache in (("without", None), ("filling", file), ("filled", file)):
        started = time.perf_counter()
        with open_runner(engine, "cuda", runtime_cache=cache) as runner:
            runner(inputs)
            taken[f"{name}_seconds"] = time.perf_counter() - started
    return {**taken, "cache_mb": file.stat().st_size / 1e6}


def accuracy(precision: str) -> Callable[[Session], Any]:
    """Compare an engine's answers with those of the fp32 network on the test images."""

    def work(session: Session) -> Any:
        from tlopt.measure.compare import compare

        engine = session.engine(precision, max(session.batches))
        reference = session.backends("torch")[0]
        return compare(session.tuned(), engine, reference_backend=reference).to_report().to_dict()

    return work


def runtimes(session: Session) -> Any:
    """Compare what other runtimes answer on the GPU with the fp32 network in torch, on the test images."""
    from tlopt.measure.compare import compare

    reference = session.backends("torch")[0]
    candidates = [(f"torch-{name.partition(':')[2]}", session.tuned(), name) for name in session.backends("torch")[1:2]]
    for precision in ("fp32", "fp16"):
        candidates += [(f"{name}-{precision}", session.network(precision), name) for name in session.backends("onnx")]
    return {
        name: compare(session.tuned(), made, backend=backend, reference_backend=reference).to_report().to_dict()
        for name, made, backend in candidates
    }
