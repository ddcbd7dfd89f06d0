"""Which networks go through the chain: timm's, torchvision's and odd ones, with random weights.

    python benchmarks/architectures.py [--only timm:resnet18,…] [--limit-s 900] [--again]

Each network is a process of its own with a time limit. It trains its classifier for an epoch on a few small
images, is pruned, exported, quantized for three runtimes, cast to fp16 and built into two engines, and predicts.
Results are written after each network, and a run goes on where the last one ended. A table of them is written
to docs/architectures.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tlopt.publishing import write_whole

ROOT = Path(__file__).resolve().parents[1]
RESULTS, PAGE = ROOT / "benchmarks" / "results" / "architectures.json", ROOT / "docs" / "architectures.md"
SIZE, CLASSES, EACH = 64, ("dark", "light"), 12
STEPS = ("finetune", "prune", "export", "int8 onnxruntime", "int8 openvino", "int8 tensorrt", "fp16", "engine fp16",
         "engine int8", "predict")  # fmt: skip
# Networks that take images of one size only, or of no fewer pixels.
SIZES = {"timm:levit_128s": 224, "timm:inception_v4": 96, "timm:inception_v3": 96, "torchvision:inception_v3": 96}
TIMM = [
    "resnet18",
    "resnet26d",
    "resnet50",
    "resnetaa50",
    "resnext50_32x4d",
    "wide_resnet50_2",
    "seresnet18",
    "ecaresnet50t",
    "skresnet18",
    "res2net50_14w_8s",
    "resnest14d",
    "gcresnet33ts",
    "resnetv2_50",
    "resnetrs50",
    "nf_resnet50",
    "nfnet_l0",
    "eca_nfnet_l0",
    "tresnet_m",
    "densenet121",
    "dla34",
    "dla46x_c",
    "dpn68",
    "vgg11_bn",
    "mobilenetv1_100",
    "mobilenetv2_100",
    "mobilenetv3_small_100",
    "mobilenetv3_large_100",
    "mobilenetv4_conv_small",
    "mobilenetv4_hybrid_medium",
    "mnasnet_100",
    "fbnetc_100",
    "spnasnet_100",
    "mixnet_s",
    "tinynet_a",
    "ghostnet_100",
    "ghostnetv2_100",
    "hardcorenas_a",
    "lcnet_100",
    "tf_efficientnet_lite0",
    "efficientnet_b0",
    "efficientnetv2_rw_t",
    "tf_efficientnetv2_b0",
    "rexnet_100",
    "regnetx_004",
    "regnety_004",
    "regnetz_b16",
    "convnext_atto",
    "convnextv2_atto",
    "inception_v3",
    "inception_v4",
    "xception41",
    "cspresnet50",
    "cspdarknet53",
    "cs3darknet_s",
    "darknet53",
    "repvgg_a0",
    "mobileone_s0",
    "repvit_m0_9",
    "fastvit_t8",
    "repghostnet_100",
    "hrnet_w18_small",
    "selecsls42b",
    "vovnet39a",
    "ese_vovnet19b_dw",
    "hgnet_tiny",
    "hgnetv2_b0",
    "edgenext_xx_small",
    "mobilevit_xxs",
    "mobilevitv2_050",
    "levit_128s",
    "efficientformer_l1",
    "efficientformerv2_s0",
    "efficientvit_b0",
    "efficientvit_m0",
    "swiftformer_xs",
    "starnet_s1",
    "inception_next_atto",
    "poolformer_s12",
    "shvit_s1",
    "iformer_t",
    "focalnet_tiny_srf",
]
TORCHVISION = [
    "alexnet",
    "vgg11",
    "squeezenet1_0",
    "squeezenet1_1",
    "mnasnet0_5",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "resnet18",
    "resnet50",
    "resnext50_32x4d",
    "densenet121",
    "shufflenet_v2_x0_5",
    "shufflenet_v2_x1_0",
    "googlenet",
    "inception_v3",
    "regnet_x_400mf",
    "regnet_y_400mf",
    "efficientnet_b0",
    "efficientnet_v2_s",
    "convnext_tiny",
]
ODD = (
    "odd_architectures:early",
    "odd_architectures:convolution",
    "odd_architectures:distilled",
    "odd_architectures:splits",
)


def chain(model: str, work: Path) -> dict[str, str]:
    """Return for each step "works", or what went wrong in one sentence."""
    import tlopt

    size = SIZES.get(model, SIZE)
    images = _images(work / "images", size)
    given: dict[str, Any] = {} if model in ODD else {"weights": _weights(model, size, work / "weights.safetensors")}
    found: dict[str, str] = {}

    def step(name: str, needs: str, run: Callable[[], object]) -> None:
        if needs and found[needs] != "works":
            found[name] = f"not tried: {needs} failed"
        else:
            try:
                run()
                found[name] = "works"
            except tlopt.TloptError as error:
                found[name] = error.message
            except Exception as error:  # noqa: BLE001 - a fault of tlopt is what this looks for
                found[name] = f"{type(error).__name__}: {error}"
        print(json.dumps({name: found[name]}), flush=True)

    def quantize(runtime: str) -> Callable[[], object]:
        return lambda: tlopt.quantize(work / "fp32", work / f"int8-{runtime}", for_=runtime)

    def build(precision: str, source: str) -> Callable[[], object]:
        return lambda: tlopt.build(work / source, work / f"engine-{precision}", target=("sm89",))

    tuned: dict[str, Any] = {"model": model, "method": "head", "epochs": 1, "image_size": size, "cache_dir": work / "c"}
    pruned: dict[str, Any] = {"epochs": 0, "samples": 8, "cache_dir": work / "c"}
    step("finetune", "", lambda: tlopt.finetune(images, work / "tuned", **tuned, **given))
    step("prune", "finetune", lambda: tlopt.prune(work / "tuned", work / "pruned", **pruned))
    step("export", "finetune", lambda: tlopt.export(work / "tuned", work / "fp32"))
    for runtime in ("onnxruntime", "openvino", "tensorrt"):
        step(f"int8 {runtime}", "export", quantize(runtime))
    step("fp16", "export", lambda: tlopt.quantize(work / "fp32", work / "fp16", precision="fp16", for_="tensorrt"))
    step("engine fp16", "fp16", build("fp16", "fp16"))
    step("engine int8", "int8 tensorrt", build("int8", "int8-tensorrt"))
    step("predict", "export", lambda: list(tlopt.predict(work / "fp32", images)))
    return found


def _images(root: Path, size: int) -> Path:
    random = np.random.default_rng(0)
    for label, name in enumerate(CLASSES):
        (root / name).mkdir(parents=True)
        for i in range(EACH):
            coarse = Image.fromarray(random.integers(0, 200, (6, 6, 3), dtype=np.uint8))
            pixels = np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC)) // 2 + 100 * label
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{i:02}.png")
    return root


def _weights(model: str, size: int, file: Path) -> Path:
    import torch
    from safetensors.torch import save_file

    from tlopt import sources

    torch.manual_seed(0)
    network = sources.build(model, classes=len(CLASSES), size=size)
    save_file({name: tensor.clone().contiguous() for name, tensor in network.state_dict().items()}, file)
    return file


def one(model: str, limit_s: float) -> dict[str, Any]:
    """Run the chain for a network in a process of its own."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as work, (Path(work) / "out").open("w+") as out:
        command = [sys.executable, __file__, "--child", model, "--work", work]
        try:
            code = subprocess.run(
                command, stdout=out, stderr=subprocess.DEVNULL, timeout=limit_s, check=False
            ).returncode
            ended = f"the process ended with {code}"
        except subprocess.TimeoutExpired:
            ended = f"not done after {limit_s:.0f} s"
        out.seek(0)
        steps: dict[str, str] = {}
        for line in out:
            if line.startswith("{"):
                steps |= json.loads(line)
    missing = [name for name in STEPS if name not in steps]
    steps |= {name: ended if name == missing[0] else f"not tried: {missing[0]} failed" for name in missing}
    return {"steps": steps, "seconds": round(time.monotonic() - start, 1)}


def page(results: dict[str, Any]) -> str:
    """Return the table of results as Markdown."""
    rates = [
        f"{name}: {sum(row['steps'][name] == 'works' for row in results.values())} of {len(results)}" for name in STEPS
    ]
    lines = ["# Which networks work", "",
             "`python benchmarks/architectures.py` takes each network through the chain, with random weights and small",
             "images. It writes this page.", "", *(f"- {rate}" for rate in rates), "",
             "| network | " + " | ".join(STEPS) + " |", "|---" * (len(STEPS) + 1) + "|"]  # fmt: skip
    for model, row in sorted(results.items()):
        lines.append(
            f"| {model} | " + " | ".join("✓" if row["steps"][name] == "works" else "–" for name in STEPS) + " |"
        )
    faults = [
        f"- `{model}`, {name}: {text}"
        for model, row in sorted(results.items())
        for name, text in row["steps"].items()
        if text != "works" and not text.startswith("not tried")
    ]
    if faults:
        lines += ["", "## What does not work, and why", "", *faults]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run what is not run yet, and write the results after each network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="networks, with commas between them")
    parser.add_argument("--limit-s", type=float, default=900, help="time limit of a network")
    parser.add_argument("--again", action="store_true", help="run what has a result, too")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        sys.path.insert(0, str(ROOT / "benchmarks"))  # the odd networks
        chain(arguments.child, arguments.work)
        return
    models = arguments.only.split(",") if arguments.only else [
        *(f"timm:{name}" for name in TIMM), *(f"torchvision:{name}" for name in TORCHVISION), *ODD
    ]  # fmt: skip
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for model in models:
        if model not in results or arguments.again:
            results[model] = one(model, arguments.limit_s)
            write_whole(RESULTS, json.dumps(dict(sorted(results.items())), indent=1) + "\n")
            write_whole(PAGE, page(results))
            bad = {name: text for name, text in results[model]["steps"].items() if text != "works"}
            print(model, bad or "works", f"{results[model]['seconds']} s", flush=True)


if __name__ == "__main__":
    main()
