"""Ask a server to classify images: python client.py IMAGE... [--url http://localhost:8000]."""

from __future__ import annotations

import argparse
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

sys.dont_write_bytecode = True  # this folder stays as it is
HERE = Path(__file__).resolve().parent
if str(HERE) not in sys.path:
    sys.path.insert(0, str(HERE))
import numpy as np  # noqa: E402
from decoding import ANSWERS, PREPROCESS, ImagesError, probabilities, read_image  # noqa: E402

_SECONDS = 60  # that an answer may take


def ask(url: str, pixels: np.ndarray) -> np.ndarray:
    """Return what the network answers, float32 (n, classes).

    Version 2 of the KServe protocol, with its extension for binary data: a JSON head, then the bytes of the tensors.

    Args:
        url: Address of the server, without a path.
        pixels: uint8 (n, size, size, 3), RGB, as `PREPROCESS.pixels` gives them.

    Raises:
        OSError: The server cannot be reached, or refuses the request.
    """
    names = json.loads((HERE / "client.json").read_text(encoding="utf-8"))
    given = {"name": names["input"], "shape": list(pixels.shape), "datatype": "UINT8"}
    head = json.dumps(
        {
            "inputs": [{**given, "parameters": {"binary_data_size": pixels.nbytes}}],
            "outputs": [{"name": names["output"], "parameters": {"binary_data": True}}],
        }
    ).encode()
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
    address = f"{url.rstrip('/')}/v2/models/{names['name']}/infer"
    request = urllib.request.Request(address, data=head + pixels.tobytes(), headers=headers)
    with urllib.request.urlopen(request, timeout=_SECONDS) as response:
        body, length = response.read(), response.headers.get("Inference-Header-Content-Length")
    end = int(length) if length else len(body)
    (output,) = json.loads(body[:end])["outputs"]
    # A server that lacks the extension for answers writes them into the JSON.
    values = np.array(output["data"]) if "data" in output else np.frombuffer(body[end:], "<f4")
    return values.astype(np.float32).reshape(output["shape"])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Ask a server to classify images.")
    parser.add_argument("images", nargs="+", metavar="IMAGE")
    parser.add_argument("--url", default="http://localhost:8000", help="address of the server (default %(default)s)")
    parser.add_argument("--top", type=int, default=5, metavar="N", help="number of classes to name (default 5)")
    given = parser.parse_args(arguments)
    labels = (HERE / "labels.txt").read_text(encoding="utf-8").splitlines()
    failed = 0
    for file in given.images:
        try:
            answers = ask(given.url, PREPROCESS.pixels(read_image(file))[None])
        except ImagesError as error:
            failed = 1
            print(f"left out: {error}", file=sys.stderr)
            continue
        except urllib.error.HTTPError as error:
            said = error.read().decode(errors="replace")[:200]
            raise SystemExit(f"{given.url} refuses the request ({error.code}): {said}") from error
        except OSError as error:
            raise SystemExit(f"{given.url} cannot be reached: {error}") from error
        shares = probabilities(answers, ANSWERS)[0]
        order = np.argsort(-shares, kind="stable")[: given.top]
        print(f"{file}\t" + ", ".join(f"{labels[i]} {shares[i]:.3f}" for i in order))
    return failed


if __name__ == "__main__":
    sys.exit(main())
