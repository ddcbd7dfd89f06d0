"""Test accuracy of the fine-tuning methods beside timm and fastai, and what each regularizer brings, over seeds.

    python benchmarks/accuracy.py [--sets clothing10,elpv,signdigits6] [--models lite0,resnet18,mobilenetv2]
        [--arms methods,peers,precisions,regularizers,distillation] [--seeds 0,1,2] [--size 128] [--python PYTHON]
        [--weights DIR] [--teacher DIR]

Each run is a process of its own, tied to one core with one thread; as many run at once as there are cores. What a
run cost is counted in processor seconds (its own and its loader's), which other work on the machine changes
little; on an idle core they are the wall-clock. `methods` is `tlopt finetune` with its defaults and the method
named. `peers` are given as many epochs as fit into the time of tlopt's default on the same set, model and seed:
fastai's `vision_learner` with `fine_tune` as its documentation uses it (presizing, `aug_transforms`, its default
learning rate), and a loop of timm's own loader, augmentation, optimizer, schedule and label smoothing with the
defaults of its train.py but for AdamW and the learning rate. Everything is judged on the test split, with the
central crop, by what the run ends with, or, for tlopt, what it keeps on validation. `distillation` is the default
with a ResNet-50 as teacher, which is fine-tuned first, with the defaults and on all cores, where --teacher does not
hold it yet; its own time is not counted. Twice the epochs with and without it show whether it takes longer to help.

A seed decides the split, too, where the set brings none. "clothing10-40" is clothing10 with 40 training photos a
class, and "elpv-200" is elpv with 200 photos a class. Runs that the result file holds already are not repeated.
clothing10 and signdigits6 are read from ../shared/data; elpv comes from the package elpv-dataset (defective:
probability above one half). ResNet-18 and MobileNetV2 need --weights, a folder of safetensors files. fastai takes part
if the interpreter --python has it.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tlopt import sources
from tlopt.artifact import Artifact
from tlopt.environment import processor, versions
from tlopt.images import reopen, scan
from tlopt.images.opening import open_pixels
from tlopt.networks import vision_ops
from tlopt.preprocess import Preprocess
from tlopt.publishing import write_whole
from tlopt.stages.finetune import finetune
from tlopt.training.inputs import predict
from tlopt.training.outcome.temperature import calibrated_loss

vision_ops.declare()  # torchvision does not import beside a CPU-only torch without

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
MODELS: dict[str, tuple[str, str, str]] = {
    # name: source, weights, the name that timm (and so fastai) has for it
    "lite0": ("pip:efficientnet_lite0", "", "tf_efficientnet_lite0"),
    "resnet18": ("timm:resnet18", "resnet18.ktb.safetensors", "resnet18"),
    "resnet50": ("timm:resnet50", "resnet50.pqf.safetensors", "resnet50"),
    "mobilenetv2": ("timm:mobilenetv2_100?pad_type=same", "mobilenetv2_100.coral.safetensors", "mobilenetv2_100"),
}
ARMS: dict[str, dict[str, dict[str, Any]]] = {
    "methods": {method: {"method": method} for method in ("lp-ft", "head", "full", "gradual")},
    "peers": {"fastai": {}, "timm": {}},
    "precisions": {"fp32": {"precision": "fp32"}, "bf16": {"precision": "bf16"}},
    "regularizers": {
        "smoothing 0.1": {"smoothing": 0.1},
        "l2-sp 0.01": {"l2_sp": 0.01},
        "ema 0.98": {"ema": 0.98},
        "mixup 0.2": {"mixup": 0.2},
        "cutmix 1": {"cutmix": 1.0},
        "randaugment": {"policy": "randaugment"},
        "trivialaugment": {"policy": "trivialaugment", "magnitude": 10.0},
        "erasing 0.25": {"erasing": 0.25},
        "dropout 0.2": {"dropout": 0.2},
        "batch norms trained": {"frozen_norm": False},
        "no weight decay": {"weight_decay": 0.0},
        "first 3 stages frozen": {"frozen_stages": 3},
    },
    "distillation": {
        "teacher": {"teacher_weight": 0.5},
        "teacher and features": {"teacher_weight": 0.5, "teacher_features": 1.0},
        "12 epochs": {"epochs": 12},
        "teacher for 12 epochs": {"teacher_weight": 0.5, "epochs": 12},
    },
}
Run = dict[str, Any]


def elpv(target: Path) -> Path:
    """Put the solar cells into class folders."""
    import elpv_dataset

    root = Path(elpv_dataset.__file__).parent / "data"
    for line in (root / "labels.csv").read_text(encoding="utf-8").splitlines():
        file, probability, _ = line.split()
        folder = target / ("defective" if float(probability) > 0.5 else "sound")
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / file, folder / Path(file).name)
    return target


def few(root: Path, per_class: int, target: Path) -> Path:
    """Link a set with only the first photos of each class: of its training part, or of all where it has no parts."""
    parts = ("train", "val", "test") if (root / "train").is_dir() else (".",)
    for part in parts:
        for folder in sorted((root / part).iterdir()):
            (target / part / folder.name).mkdir(parents=True)
            files = sorted(folder.iterdir())
            for file in files if part in ("val", "test") else files[:per_class]:
                (target / part / folder.name / file.name).symlink_to(file)
    return target


def opened(name: str, folder: Path) -> Path:
    """Return the folder of a set, made if it has to be."""
    target = folder / name
    if target.exists():
        return target
    if name == "elpv":
        return elpv(target)
    base, _, per_class = name.partition("-")
    if not per_class:
        return SHARED / base
    return few(opened(base, folder) if base == "elpv" else SHARED / base, int(per_class), target)


def processor_seconds() -> float:
    """Return the processor time of this process and of its children that have ended."""
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(used.ru_utime + used.ru_stime for used in both)


def tlopt_run(
    images: Path, model: str, weights: Path | None, size: int, seed: int, settings: dict[str, Any]
) -> dict[str, Any]:
    """Fine-tune once and return accuracy and time."""
    with tempfile.TemporaryDirectory() as folder:
        started = processor_seconds()
        made = finetune(
            images, Path(folder) / "out", model=model, weights=weights, image_size=size, seed=seed,
            cache_dir=Path(folder) / "cache", **settings,
        )  # fmt: skip
        seconds = processor_seconds() - started
        card = made.card
        assert card.images is not None
        test = open_pixels(reopen(card.images)["test"], card.preprocess).filled()
        logits, labels = predict(sources.open_model(made), test, device=torch.device("cpu"))
        test.close()
    metrics = card.torch.metrics
    return {
        "test_accuracy": float((logits.argmax(1) == labels).mean()),
        "test_loss": calibrated_loss(logits, labels),
        "val_accuracy": metrics["validation"]["accuracy"],
        "probe_val_accuracy": metrics.get("probe", {}).get("accuracy"),
        "fine_tuned_share": metrics.get("fine_tuned_share"),
        "candidates": metrics.get("candidates"),
        "epochs": len(metrics.get("epochs", [])) or None,
        "seconds": round(seconds, 1),
        "test_images": len(labels),
    }


def fit_to(budget: float, epoch: Callable[[], float], fixed: float = 0.0) -> int:
    """Return how many epochs fit into a time."""
    return max(1, round((budget - fixed) / epoch()))


def judged(network: torch.nn.Module, images: Path, seed: int, preprocess: Preprocess) -> dict[str, Any]:
    """Return the accuracy on the test split, judged as tlopt is."""
    part = scan(images).split(val=0.15, test=0.15, seed=seed)["test"]
    test = open_pixels(part, preprocess, cache_gb=0).filled()
    logits, labels = predict(network, test, device=torch.device("cpu"))
    return {
        "test_accuracy": float((logits.argmax(1) == labels).mean()),
        "test_loss": calibrated_loss(logits, labels),
        "test_images": len(labels),
    }


def timm_run(images: Path, model: str, weights: Path | None, size: int, seed: int, budget: float) -> dict[str, Any]:
    """Train with timm's pieces: what its train.py does, with AdamW at 5e-4."""
    from timm.data import create_dataset, create_loader
    from timm.loss import LabelSmoothingCrossEntropy
    from timm.optim import create_optimizer_v2
    from timm.scheduler import CosineLRScheduler

    batch = 32
    part = scan(images).split(val=0.15, test=0.15, seed=seed)["train"]
    torch.manual_seed(seed)
    network, preprocess = sources.load(model, classes=len(part.classes), size=size, weights_file=weights)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # as train.py --channels-last
    with tempfile.TemporaryDirectory() as folder:
        loader = create_loader(
            create_dataset("", root=str(linked(part, Path(folder)))), input_size=(3, size, size), batch_size=batch,
            is_training=True, use_prefetcher=False, scale=(0.08, 1), hflip=0.5, color_jitter=0.4,
            interpolation="random", mean=preprocess.mean, std=preprocess.std, num_workers=0,
            device=torch.device("cpu"), pin_memory=False,
        )  # fmt: skip
        loss = LabelSmoothingCrossEntropy(0.1)
        start = {name: tensor.clone() for name, tensor in network.state_dict().items()}

        def train(epochs: int, steps: int | None = None) -> None:
            network.load_state_dict(start)
            optimizer = create_optimizer_v2(network, opt="adamw", lr=5e-4, weight_decay=0.05)
            schedule = CosineLRScheduler(
                optimizer, t_initial=epochs * len(loader), warmup_t=len(loader), warmup_lr_init=1e-6,
                t_in_epochs=False, lr_min=0, warmup_prefix=False,
            )  # fmt: skip
            done = 0
            network.train()
            for _ in range(epochs):
                for inputs, labels in loader:
                    schedule.step_update(done)
                    loss(network(inputs.to(memory_format=torch.channels_last)), labels).backward()
                    optimizer.step()
                    optimizer.zero_grad()
                    done += 1
                    if done == steps:
                        return

        def epoch() -> float:
            steps = min(6, len(loader))
            began = processor_seconds()
            train(2, steps)
            return (processor_seconds() - began) * len(loader) / steps

        epochs = fit_to(budget, epoch)
        torch.manual_seed(seed)
        started = processor_seconds()
        train(epochs)
        seconds = processor_seconds() - started
    return {**judged(network.eval(), images, seed, preprocess), "epochs": epochs, "seconds": round(seconds, 1)}


def fastai_run(
    images: Path, model: str, weights: Path | None, size: int, seed: int, budget: float, timm_name: str
) -> dict[str, Any]:
    """Train with fastai's vision_learner and fine_tune."""
    from fastai.vision.all import (
        ImageDataLoaders,
        Normalize,
        Resize,
        accuracy,
        aug_transforms,
        set_seed,
        vision_learner,
    )

    parts = scan(images).split(val=0.15, test=0.15, seed=seed)
    network, preprocess = sources.load(model, classes=len(parts["train"].classes), size=size, weights_file=weights)
    body = dict(network.state_dict())
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        linked(parts["train"], root / "train")
        linked(parts["val"], root / "val")
        stats = Normalize.from_stats(preprocess.mean, preprocess.std, cuda=False)
        loaders = ImageDataLoaders.from_folder(
            root, train="train", valid="val", bs=32, num_workers=0, item_tfms=Resize(round(1.25 * size)),
            batch_tfms=[*aug_transforms(size=size, min_scale=0.75), stats], device="cpu",
        )  # fmt: skip

        def learner() -> Any:
            set_seed(seed)
            options = {"pad_type": "same"} if "pad_type=same" in model else {}
            made = vision_learner(
                loaders, timm_name, pretrained=False, normalize=False, metrics=accuracy, loss_func=None, **options
            )
            taken = made.model[0].model.load_state_dict(body, strict=False)
            assert not taken.missing_keys, taken.missing_keys
            made.freeze()  # as it does itself with pretrained=True
            return made

        def epoch() -> float:
            few = learner()
            few.unfreeze()
            batches = [loaders.train.one_batch() for _ in range(2)]
            few.loss_func(few.model(batches[0][0]), batches[0][1]).backward()  # the first takes longer
            began = processor_seconds()
            for _ in range(2):
                loaders.train.one_batch()
            loading = processor_seconds() - began
            began = processor_seconds()
            for inputs, labels in batches:
                few.loss_func(few.model(inputs), labels).backward()
            return (processor_seconds() - began + loading) / 2 * len(loaders.train)

        # One epoch with the body frozen comes first and costs about half of one.
        each = epoch()
        epochs = fit_to(budget, lambda: each, fixed=0.5 * each)
        made = learner()
        started = processor_seconds()
        with made.no_bar(), made.no_logging():
            made.fine_tune(epochs)
        seconds = processor_seconds() - started
    return {**judged(made.model.eval(), images, seed, preprocess), "epochs": epochs, "seconds": round(seconds, 1)}


def linked(part: Any, target: Path) -> Path:
    """Link the images of a part into class folders."""
    for i, (file, label) in enumerate(zip(part.files, part.labels, strict=True)):
        folder = target / part.classes[label]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i:05}{Path(file).suffix}").symlink_to((part.path / file).resolve())
    return target


def taught(name: str, folder: Path, weights: Path, size: int, out: Path) -> dict[str, Any]:
    """Make the teacher of a set if there is none yet, and return its accuracy on the test split.

    Raises:
        ValueError: The set is split by the seed, so that a teacher would have seen test photos of another.
    """
    images = opened(name, folder)
    if not (images / "test").is_dir():
        raise ValueError(f"{name} brings no test split, which one teacher for all seeds needs")
    if not out.exists():
        source, file, _ = MODELS["resnet50"]
        finetune(images, out, model=source, weights=weights / file, image_size=size)
    teacher = Artifact.load(out)
    return judged(sources.open_model(teacher), images, 0, teacher.card.preprocess)


def one(key: Run, folder: Path, weights: Path, settings: dict[str, Any], budget: float) -> dict[str, Any]:
    """Do one run in this process."""
    torch.set_num_threads(1)
    torch.manual_seed(key["seed"])
    np.random.seed(key["seed"])  # noqa: NPY002  (the peers draw from it)
    source, file, timm_name = MODELS[key["model"]]
    images = opened(key["set"], folder)
    given = (images, source, weights / file if file else None, key["size"], key["seed"])
    if key["arm"] == "timm":
        return timm_run(*given, budget)
    if key["arm"] == "fastai":
        return fastai_run(*given, budget, timm_name)
    return tlopt_run(*given, settings)


class Results:
    """The result file, completed run by run."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.lock = threading.Lock()
        self.record: dict[str, Any] = (
            json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"runs": []}
        )  # fmt: skip

    def find(self, key: Run) -> Run | None:
        """Return the run of a key, if it was done."""
        with self.lock:
            return next((run for run in self.record["runs"] if run["key"] == key), None)

    def note(self, found: dict[str, Any]) -> None:
        """Keep something beside the runs; it is written with the next."""
        self.record |= found

    def add(self, run: Run) -> None:
        """Write a run down."""
        with self.lock:
            self.record["runs"].append(run)
            self.record |= {
                "command": "python benchmarks/accuracy.py (see its help; filled bit by bit)",
                "device": processor(), "threads": 1, "versions": versions(),
            }  # fmt: skip
            self.file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.file, json.dumps(self.record, indent=1) + "\n")
            write_whole(self.file.with_suffix(".md"), markdown(self.record))


def wanted(options: argparse.Namespace) -> Iterator[tuple[Run, dict[str, Any]]]:
    """Yield the runs asked for, seed by seed."""
    arms = json.loads(options.arms) if options.arms.startswith("{") else {}
    for group in options.arms.split(",") if not arms else ():
        arms |= ARMS[group]
    only = {name.strip() for name in options.only.split(",") if name.strip()}
    for seed in map(int, options.seeds.split(",")):
        for name in options.sets.split(","):
            for model in options.models.split(","):
                for arm, settings in arms.items():
                    if only and arm not in only:
                        continue
                    yield {"set": name, "model": model, "arm": arm, "seed": seed, "size": options.size}, settings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", default="clothing10,elpv,signdigits6")
    parser.add_argument("--models", default="lite0")
    parser.add_argument("--arms", default="methods", help="groups of arms, or a JSON object of name: settings")
    parser.add_argument("--only", default="", help="names of arms to run, of all by default")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--weights", type=Path, default=Path())
    parser.add_argument("--teacher", type=Path, default=Path("runs/benchmark-teacher"), help="made if missing")
    parser.add_argument("--python", default=sys.executable, help="interpreter that may have fastai")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--name", default="finetune-accuracy", help="of the result files, without their ending")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(**json.loads(options.one), folder=options.out, weights=options.weights)))
        return
    results = Results(options.out / f"{options.name}.json")
    with tempfile.TemporaryDirectory() as folder:
        for name in options.sets.split(","):
            opened(name, Path(folder))
        groups = set() if options.arms.startswith("{") else {*options.arms.split(",")}
        teachers = {name: options.teacher / f"{name}-{options.size}" for name in options.sets.split(",")}
        for name, out in teachers.items() if "distillation" in groups else ():
            found = taught(name, Path(folder), options.weights, options.size, out)
            results.note({"teacher": {"model": "resnet50", "set": name, "size": options.size, **found}})
        left: queue.Queue[tuple[Run, dict[str, Any]]] = queue.Queue()
        for pair in wanted(options):
            if results.find(pair[0]) is None:
                left.put(pair)
        cores = sorted(os.sched_getaffinity(0))
        threads = [
            threading.Thread(target=work, args=(core, left, results, Path(folder), teachers, options)) for core in cores
        ]  # fmt: skip
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    print(results.file.with_suffix(".md").read_text(encoding="utf-8"))


def work(
    core: int, left: queue.Queue[Any], results: Results, folder: Path, teachers: dict[str, Path],
    options: argparse.Namespace,
) -> None:  # fmt: skip
    """Do runs on one core until none is left."""
    while True:
        try:
            key, settings = left.get_nowait()
        except queue.Empty:
            return
        budget = 0.0
        if key["arm"] in ARMS["peers"]:
            own = results.find({**key, "arm": "lp-ft"})
            if own is None:
                print(key, "waits for tlopt's own run; run the methods first", file=sys.stderr)
                continue
            budget = own["seconds"]
        teacher = {"teacher": str(teachers[key["set"]])} if "teacher_weight" in settings else {}
        given = {"key": key, "settings": {**settings, **teacher}, "budget": budget}
        command = [
            options.python, __file__, "--one", json.dumps(given), "--out", str(folder), "--weights",
            str(options.weights),
        ]  # fmt: skip
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
            preexec_fn=lambda: os.sched_setaffinity(0, {core}),
        )  # fmt: skip
        if done.returncode:
            print(key, "failed:", done.stderr[-2000:], file=sys.stderr, flush=True)
            continue
        found = json.loads(done.stdout.strip().rpartition("\n")[2])
        print(key, found, file=sys.stderr, flush=True)
        results.add({"key": key, "settings": settings, **found})


def markdown(result: dict[str, Any]) -> str:
    """Return the runs as a table: mean and spread over the seeds."""
    groups: dict[tuple[Any, ...], list[Run]] = {}
    for run in result["runs"]:
        key = run["key"]
        groups.setdefault((key["set"], key["model"], key["size"]), []).append(run)
    lines = [
        "# Test accuracy of the fine-tuning methods", "",
        f"{result['device']}, one core and thread a run; torch {result['versions']['torch']}, timm "
        f"{result['versions']['timm']}. `{result['command']}`. Spread: standard deviation over the seeds. Seconds of "
        "processor time, decoding included. Over head: mean over the seeds of the difference to the logistic "
        "regression of the same seed, points."
        + (" Teacher: {model}, {set}, {size} px, {test_accuracy:.3f}.".format(**result["teacher"])
           if "teacher" in result else ""), "",
        "| set | model | px | arm | seeds | test accuracy | spread | over head | epochs | seconds |",
        "|---|---|---:|---|---:|---:|---:|---:|---:|---:|",
    ]  # fmt: skip
    for (name, model, size), runs in sorted(groups.items()):
        heads = {run["key"]["seed"]: run["test_accuracy"] for run in runs if run["key"]["arm"] == "head"}
        for arm in dict.fromkeys(run["key"]["arm"] for run in runs):
            entries = [run for run in runs if run["key"]["arm"] == arm]
            scores = [run["test_accuracy"] for run in entries]
            spread = f"{statistics.stdev(scores):.3f}" if len(scores) > 1 else ""
            over = [run["test_accuracy"] - heads[run["key"]["seed"]] for run in entries if run["key"]["seed"] in heads]
            gain = f"{100 * statistics.mean(over):+.1f}" if over else ""
            epochs = "" if arm == "head" else f"{statistics.median(run['epochs'] or 0 for run in entries):.0f}"
            lines.append(
                f"| {name} | {model} | {size} | {arm} | {len(scores)} | {statistics.mean(scores):.3f} | {spread} "
                f"| {gain} | {epochs} | {statistics.median(run['seconds'] for run in entries):.0f} |"
            )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
