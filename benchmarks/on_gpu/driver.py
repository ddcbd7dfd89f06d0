"""Steps of benchmarks/gpu.py that need no TensorRT: the real runner, with a kernel in the place of a network."""

from __future__ import annotations

import contextlib
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from on_gpu.kernel import Kernel
from on_gpu.session import Session

LAYERS = 50  # kernels that a network of 50 layers launches
_TESTS = Path(__file__).resolve().parents[2] / "tests"
_TOLERANCE = 1e-4  # relative; float32 sums of 3 x 224 x 224 numbers
_SMALL = 20_000  # the largest difference of free memory that says nothing: another process's, bytes


def driver(package: str) -> Callable[[Session], Any]:
    """Check and measure what runs an engine, through one of the two packages that drive CUDA."""

    def work(session: Session) -> Any:
        with _standing_in(session, package, launches=1) as engine:
            found = _checked(engine, session)
        with _standing_in(session, package, launches=LAYERS) as engine:
            found |= _measured(engine, session)
        return found

    return work


@contextlib.contextmanager
def _standing_in(session: Session, package: str, *, launches: int) -> Iterator[Any]:
    """Let a double be TensorRT: its engines launch a kernel. Yields the engine."""
    for folder in ("backends", ""):
        if str(_TESTS / folder) not in sys.path:
            sys.path.append(str(_TESTS / folder))
    import gpu_doubles
    from tiny_engine import write_engine

    from tlopt.engine import driver as drivers
    from tlopt.engine import flavour
    from tlopt.engine.flavour import Flavour
    from tlopt.engine.gpu import gpu

    here = gpu()
    assert here is not None
    launch = gpu_doubles.LAUNCH if session.options.rehearse else Kernel(launches=launches)
    double = Flavour(name="tensorrt", version="10.13.2.6", cuda="13", api=gpu_doubles.API)
    side, largest = session.options.image_size, max(session.batches)
    with contextlib.ExitStack() as held:
        for place, name, value in (
            (flavour, "load", lambda *_, **__: double),
            (drivers, "load", lambda: drivers.through(package)),
            (gpu_doubles, "LAUNCH", launch),
            (gpu_doubles, "CLASSES", 4),
        ):
            held.callback(setattr, place, name, getattr(place, name))
            setattr(place, name, value)
        yield write_engine(
            session.options.work / f"stand-in-{package}",
            targets=[here.capability],
            gpu={"name": here.name, "capability": here.capability, "driver_cuda": here.driver_cuda},
            profile={"shape": [3, side, side], "min_batch": 1, "opt_batch": largest, "max_batch": largest},
            options={"min_batch": 1, "opt_batch": largest, "max_batch": largest, "refit": True},
        )


def _checked(engine: Any, session: Session) -> dict[str, Any]:
    """Run every check and return how many answers were right; a wrong one is an error."""
    counted = {
        "answers": sum(_answers(engine, device, streams) for device in _devices() for streams in (1, 3)),
        "threads": sum(_threads(engine, device) for device in _devices()),
        "captures_beside_other_work": _captures(engine) if _torch() else "not checked: torch has no GPU here",
        "tensors_on_the_gpu": _tensors(engine) if _torch() else "not checked: torch has no GPU here",
        "refits": sum(_refits(engine, device, session.options.work / "bias") for device in _devices()),
        "bytes_left": _left(engine) if _torch() else "not checked: torch has no GPU here",
    }
    return {"checked": counted}


def _devices() -> tuple[str, ...]:
    from tlopt.backends.tensorrt import DEVICES

    return DEVICES


def _torch() -> bool:
    import torch

    return torch.cuda.is_available()


def _batch(engine: Any, count: int, seed: int = 0) -> np.ndarray:
    shape = (count, *engine.card.engine.profile.shape)
    return np.random.default_rng((seed, count)).standard_normal(shape, np.float32)


def _right(found: np.ndarray, inputs: np.ndarray, bias: float = 0.0) -> int:
    """Compare with what the processor computes in float64."""
    wanted = np.repeat(inputs.mean(axis=(1, 2, 3), dtype=np.float64)[:, None], 4, axis=1) + bias
    np.testing.assert_allclose(found, wanted, rtol=_TOLERANCE, atol=1e-6)
    return 1


def _open(engine: Any, device: str, **settings: Any) -> Any:
    from tlopt.backends.tensorrt import Runner

    return Runner(engine, device=device, **settings)


def _answers(engine: Any, device: str, streams: int) -> int:
    """Check batches of any size, each repeated with other images, and a stream of them."""
    largest = engine.card.engine.profile.max_batch
    with _open(engine, device, streams=streams) as runner:
        right = 0
        for count in (0, 1, 2, largest, 1, largest + 1, 2 * largest + 3):
            for seed in range(3):
                inputs = _batch(engine, count, seed)
                found = runner(inputs)
                right += _right(found, inputs) if count else found.shape == (0, 4)
        many = [_batch(engine, 1 + index % largest, index) for index in range(12)]
        for inputs, found in zip(many, runner.stream(many), strict=True):
            right += _right(found, inputs)
    return right


def _threads(engine: Any, device: str) -> int:
    """Check four threads with a runner each."""

    def work(index: int) -> int:
        with _open(engine, device) as runner:
            batches = [_batch(engine, 1 + (step // 3) % 4, 50 * index + step) for step in range(12)]
            return sum(_right(runner(inputs), inputs) for inputs in batches)

    with ThreadPoolExecutor(4) as pool:
        return sum(pool.map(work, range(4)))


def _captures(engine: Any) -> int:
    """Capture graphs while another thread allocates and computes with torch on CUDA's legacy stream."""
    import torch

    ended, wrong = threading.Event(), []

    def other() -> None:
        try:
            while not ended.is_set():
                made = torch.randn(256, 256, device="cuda") @ torch.randn(256, 256, device="cuda")
                made.sum().item()
                torch.cuda.empty_cache()  # which lets the next round allocate anew
        except RuntimeError as error:
            wrong.append(error)

    thread = threading.Thread(target=other)
    thread.start()
    right = 0
    try:
        with _open(engine, "cuda-graphs") as runner:
            for step in range(90):  # a new batch size each third time: eager, captured, launched
                inputs = _batch(engine, 1 + (step // 3) % engine.card.engine.profile.max_batch, step)
                right += _right(runner(inputs), inputs)
    finally:
        ended.set()
        thread.join()
    if wrong:
        raise wrong[0]
    return right


def _tensors(engine: Any) -> int:
    """Check tensors that lie on the GPU, in torch's default stream and in another, between other work."""
    import torch

    right = 0
    with _open(engine, "cuda") as runner:
        for stream in (torch.cuda.default_stream(), torch.cuda.Stream()):  # type: ignore[no-untyped-call]
            with torch.cuda.stream(stream):
                for seed in range(20):
                    inputs = _batch(engine, 1 + seed % engine.card.engine.profile.max_batch, seed)
                    tensor = torch.from_numpy(inputs).cuda(non_blocking=True)
                    doubled = runner.on_device(tensor * 2) / 2
                    right += _right(doubled.cpu().numpy(), inputs)
    return right


def _refits(engine: Any, device: str, file: Path) -> int:
    """Check that new weights are seen, also where a graph was captured."""
    right = 0
    with _open(engine, device) as runner:
        for bias in (0.0, 2.5, -1.0):
            file.write_text(str(bias))
            runner.refit(file)
            for seed in range(3):
                inputs = _batch(engine, 2, seed)
                right += _right(runner(inputs), inputs, bias)
    return right


def _left(engine: Any) -> int:
    """Return the bytes of the GPU that 20 runners left behind."""
    import torch

    def use() -> None:
        for device in _devices():
            with _open(engine, device, streams=2) as runner:
                for _ in range(3):
                    runner(_batch(engine, 2))

    use()
    before, _ = torch.cuda.mem_get_info()
    for _ in range(10):
        use()
    after, _ = torch.cuda.mem_get_info()
    if before - after > _SMALL:
        raise RuntimeError(f"20 runners left {before - after} bytes behind on the GPU")
    return before - after


def _measured(engine: Any, session: Session) -> dict[str, Any]:
    """Measure calls of the smallest batch, copies of the largest, and throughput without copies."""
    rows = []
    for device in _devices():
        with _open(engine, device) as runner:
            rows += [{"device": device, "batch": size, **_call(runner, engine, size)} for size in session.batches]
    lanes = []
    for streams in (1, 2, 4):
        with _open(engine, "cuda-graphs", streams=streams) as runner:
            found = runner.resident(_batch(engine, min(session.batches)), runs=session.runs(200))
        lanes.append({"streams": streams, **vars(found)})
    return {"kernels_a_batch": 1 if session.options.rehearse else LAYERS, "calls": rows, "resident": lanes}


def _call(runner: Any, engine: Any, size: int) -> dict[str, float]:
    inputs = _batch(engine, size)
    walls, alone, copies = [], [], []
    for _ in range(60):
        started = time.perf_counter()
        runner(inputs)
        walls.append(1e3 * (time.perf_counter() - started))
        gpu_ms, with_copies = runner.gpu_times_ms()
        alone.append(gpu_ms)
        copies.append(with_copies - gpu_ms)
    copied = statistics.median(copies[10:])
    return {
        "call_p50_ms": statistics.median(walls[10:]),
        "gpu_p50_ms": statistics.median(alone[10:]),
        "copies_p50_ms": copied,
        "copied_gb_per_s": inputs.nbytes / copied / 1e6 if copied > 0 else 0.0,
    }
