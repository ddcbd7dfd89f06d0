"""Steps of benchmarks/gpu.py on training, on kinds of engines, and on what they answer."""

from __future__ import annotations

import contextlib
import json
import logging
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from on_gpu.session import Session, inputs_of, open_runner


def training(**settings: Any) -> Callable[[Session], Any]:
    """Fine-tune for two epochs unless told; the last one's speed counts, since the first loads and compiles."""

    def work(session: Session) -> Any:
        with _told("tlopt.training") as told:
            made = session.finetune(session.options.work / "trained", **{"epochs": 2, **settings})
        step = made.card.lineage[-1]
        epochs = [json.loads(line) for line in (made.path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        if not session.options.rehearse and session.device not in step.device:
            raise RuntimeError(f"the training ran on {step.device}, not on {session.device}")
        return {
            "device": step.device,
            "settings": dict(step.settings),
            "seconds": step.seconds,
            "epochs": epochs,
            "speeds": [
                {name: record.args[1][name] for name in ("seconds", "images_per_s")}
                for record in told
                if str(record.msg).startswith("epoch")
            ],
            "recording": [record.getMessage() for record in told if record.name.endswith("recording")],
        }

    return work


@contextlib.contextmanager
def _told(logger: str) -> Iterator[list[Any]]:
    """Collect what a logger is told."""
    told: list[Any] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.append(record)

    handler, log = Handler(), logging.getLogger(logger)
    before = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield told
    finally:
        log.removeHandler(handler)
        log.setLevel(before)


_RECORDED = {
    "tf_efficientnet_lite0": {},
    "resnet50": {},
    "mobilenetv3_large_100": {},
    "efficientnet_b0": {"drop_rate": 0.2, "drop_path_rate": 0.2},
    "convnext_tiny": {"drop_path_rate": 0.1},
}
_COUNTED = 20  # steps


def recordings(session: Session) -> Any:
    """Time training steps of 32 images in bf16, kernel by kernel and replayed from a recording, side by side."""
    if session.options.rehearse:
        raise RuntimeError("CUDA graphs are recorded on a GPU alone")
    import timm
    import torch

    for name, more in _RECORDED.items():
        torch.manual_seed(0)
        model = timm.create_model(name, num_classes=10, **more)
        session.rows.append({"network": name, **more, **_both_ways(model, torch.device("cuda"))})
        print(f"  {session.rows[-1]}", flush=True)
    return session.rows


def _both_ways(model: Any, device: Any) -> dict[str, Any]:
    import torch
    from torch.nn import functional

    from tlopt.networks import layout
    from tlopt.training import distributed
    from tlopt.training.optimization.precision import arithmetic
    from tlopt.training.recording import Graphs, Recorder

    model = layout.place(model, device).train()
    precision = arithmetic("bf16", device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def passes(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        with precision.forward():
            loss = functional.cross_entropy(model(inputs).float(), targets)
        precision.backward(loss)
        return loss

    def step(compute: Any, number: int, times: list[float]) -> None:
        random = torch.Generator(device).manual_seed(number)
        inputs = torch.randn(32, 3, 224, 224, device=device, generator=random)
        inputs = inputs.contiguous(memory_format=torch.channels_last)
        targets = torch.rand(32, 10, device=device, generator=random).softmax(1)
        torch.cuda.synchronize()
        started = time.perf_counter()
        distributed.seed(number)
        loss = compute(inputs, targets)
        precision.step(optimizer, clip=1.0)
        optimizer.zero_grad(set_to_none=True)
        float(loss.detach())
        times.append(1e3 * (time.perf_counter() - started))

    recorder = Recorder(passes, [model], Graphs())
    taken: dict[str, list[float]] = {"queued": [], "recorded": []}
    for number in range(5 + _COUNTED):
        step(passes, number, taken["queued"])
        step(partial(recorder.gradients, seed=number), number, taken["recorded"])
    medians = {f"{name}_ms": sorted(times[5:])[_COUNTED // 2] for name, times in taken.items()}
    return {**medians, "replayed": recorder.replayed, "refused": recorder.refused, "steps": 5 + _COUNTED}


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
