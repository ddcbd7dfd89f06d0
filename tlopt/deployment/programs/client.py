"""Ask a server to classify images: python client.py IMAGE... [--url http://localhost:8000]."""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.dont_write_bytecode = True  # this folder stays as it is
HERE = Path(__file__).resolve().parent
if str(HERE) not in sys.path:
    sys.path.insert(0, str(HERE))
try:
    import numpy as np
    from decoding import ANSWERS, PREPROCESS, ImagesError, exit_code, one_line, probabilities, read_image, shown_name
except ImportError as error:
    raise SystemExit(f"{error}. Install what this needs: python -m pip install numpy pillow") from error

_SECONDS = 60  # that an answer may take
_MOST_BYTES = 64_000_000  # of an answer
_MOST_LETTERS = 200  # of what a server says of its failure
_HERE = ("localhost", "127.0.0.1", "::1")  # this machine, which no proxy leads to


class ServerError(Exception):
    """The server does not answer, or not as it should; or a file of this folder cannot be read."""


class Server:
    """A server with the model of this folder, asked by version 2 of the KServe protocol."""

    def __init__(self, url: str, folder: Path = HERE) -> None:
        """Read what the model is called, and how many images it takes at once.

        Args:
            url: Address of the server, without a path.
            folder: The deployment.

        Raises:
            ServerError: A file of the deployment is missing or damaged.
        """
        self.url = url.rstrip("/")
        try:
            names = json.loads((folder / "client.json").read_text(encoding="utf-8"))
            self.labels = (folder / "labels.txt").read_text(encoding="utf-8").splitlines()
            self.batch = int(names["fixed_batch"]) or 1  # images of each request
            self._name, self._input, self._output = (str(names[key]) for key in ("name", "input", "output"))
        except (OSError, ValueError, TypeError, KeyError) as error:
            hint = "Unpack it again, or make it again"
            raise ServerError(f"{folder} cannot be used: {one_line(error)}. {hint}.") from error

    def ask(self, pixels: np.ndarray) -> np.ndarray:
        """Return what the network answers, float32 (n, classes).

        Args:
            pixels: uint8 (n, size, size, 3), RGB, as `PREPROCESS.pixels` gives them; n at least 1, and at most `batch`
                where that is more than 1.

        Raises:
            ServerError: The server cannot be reached, refuses the request, or answers with something else.
        """
        # A model with a fixed batch takes no fewer images: the last one fills it up.
        missing = max(0, self.batch - len(pixels))
        filled = np.concatenate([pixels, np.repeat(pixels[-1:], missing, axis=0)])
        body, length = self._sent(*self._request(filled))
        try:
            found = _numbers(body, length)
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
            raise ServerError(f"{self.url} answers otherwise than the protocol says: {one_line(error)}.") from error
        if found.shape != (len(filled), len(self.labels)):
            images = "1 image" if len(filled) == 1 else f"{len(filled)} images"
            wanted = f"the request holds {images} of {len(self.labels)} classes"
            raise ServerError(f"{self.url} answers with numbers of shape {found.shape}, and {wanted}.")
        if not np.isfinite(found).all():
            raise ServerError(f"{self.url} answers with numbers that are not finite (NaN or infinity).")
        return found[: len(pixels)]

    def _request(self, pixels: np.ndarray) -> tuple[bytes, Mapping[str, str]]:
        """Return the body of a request and its headers: a JSON head, then the bytes of the pixels."""
        given = {"name": self._input, "shape": list(pixels.shape), "datatype": "UINT8"}
        head = json.dumps(
            {
                "inputs": [{**given, "parameters": {"binary_data_size": pixels.nbytes}}],
                "outputs": [{"name": self._output, "parameters": {"binary_data": True}}],
            }
        ).encode()
        headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
        return head + pixels.tobytes(), headers

    def _sent(self, content: bytes, headers: Mapping[str, str]) -> tuple[bytes, str | None]:
        """Return the body of the answer to a request, and the length of the JSON in it if the server says one."""
        address = f"{self.url}/v2/models/{self._name}/infer"
        try:
            request = urllib.request.Request(address, data=content, headers=dict(headers))
            with _opener(address).open(request, timeout=_SECONDS) as response:
                return response.read(_MOST_BYTES), response.headers.get("Inference-Header-Content-Length")
        except urllib.error.HTTPError as error:
            raise ServerError(f"{self.url} refuses the request ({error.code}): {_explained(error)}") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            said = one_line(reason) if isinstance(reason, Exception) else reason
            raise ServerError(f"{self.url} does not answer: {said}.") from error


def _opener(address: str) -> urllib.request.OpenerDirector:
    """Return what sends requests: through the proxy of the environment, if there is one and the server is elsewhere."""
    here = urllib.parse.urlsplit(address).hostname in _HERE
    return urllib.request.build_opener(*([urllib.request.ProxyHandler({})] if here else []))


def _numbers(body: bytes, length: str | None) -> np.ndarray:
    """Return the numbers of an answer, float32 in the shape that it says.

    Args:
        body: JSON, which may be followed by the numbers as bytes.
        length: Of the JSON; None if it is all.

    Raises:
        ValueError, TypeError, KeyError, OverflowError, RecursionError: It is none of the protocol.
    """
    end = int(length) if length else len(body)
    if not 0 <= end <= len(body):
        raise ValueError(f"it has {len(body)} bytes, and its head {length}")
    (output,) = json.loads(body[:end])["outputs"]
    if "data" in output:  # a server that lacks the extension for binary answers writes them into the JSON
        with np.errstate(over="ignore"):  # such numbers become infinite
            return np.array(output["data"], np.float32).reshape(output["shape"])
    if output["datatype"] != "FP32":
        raise ValueError(f"its numbers are {output['datatype']}, not FP32")
    return np.frombuffer(body[end:], "<f4").reshape(output["shape"])


def _explained(error: urllib.error.HTTPError) -> str:
    """Return what a server says of its refusal, on one line."""
    try:
        said = " ".join(error.read(_MOST_LETTERS).decode(errors="replace").split())
    except (OSError, http.client.HTTPException):
        said = ""
    return said or str(error.reason)


def classify(server: Server, files: Sequence[str], *, top: int) -> int:
    """Print a line for each image; return 1 if one could not be read, else 0."""
    failed = 0
    for first in range(0, len(files), server.batch):
        kept, pixels = [], []
        for file in files[first : first + server.batch]:
            try:
                pixels.append(PREPROCESS.pixels(read_image(file)))
                kept.append(file)
            except ImagesError as error:
                failed = 1
                print(f"left out: {shown_name(error)}", file=sys.stderr)
        answers = server.ask(np.stack(pixels)) if kept else ()
        for file, shares in zip(kept, probabilities(answers, ANSWERS) if kept else (), strict=True):
            order = np.argsort(-shares, kind="stable")[:top]
            named = ", ".join(f"{shown_name(server.labels[i])} {shares[i]:.3f}" for i in order)
            print(f"{shown_name(file)}\t{named}")
    return failed


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code, which --help explains."""
    code: int = exit_code(lambda: _run(arguments), ServerError)
    return code


def _run(arguments: Sequence[str] | None) -> int:
    parser = argparse.ArgumentParser(
        description="Ask a server to classify images.",
        epilog="Exit code: 0; 1 if an image cannot be read, the server does not answer as it should or nothing can "
        "be printed; 2 if the command line is wrong.",
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE")
    parser.add_argument(
        "--url", type=_address, default="http://localhost:8000", help="address of the server (default %(default)s)"
    )
    parser.add_argument("--top", type=_count, default=5, metavar="N", help="number of classes to name (default 5)")
    given = parser.parse_args(arguments)
    return classify(Server(given.url), given.images, top=given.top)


def _address(text: str) -> str:
    """Return an address if it is one of HTTP."""
    try:
        parts = urllib.parse.urlsplit(text)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise argparse.ArgumentTypeError(f"it takes an address as http://localhost:8000, got {text!r}")
    return text


def _count(text: str) -> int:
    """Return a number if it is one, and at least 1."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"it takes a whole number, at least 1, got {text!r}")
    return number


if __name__ == "__main__":
    sys.exit(main())
