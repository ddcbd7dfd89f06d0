import os
import subprocess
import sys

import pytest

from tlopt.process import telemetry

CODE = "import os, tlopt; print(*(os.environ.get(name) for name in {names!r}))"


def told(environment: dict[str, str]) -> list[str]:
    code = CODE.format(names=telemetry.VARIABLES)
    clean = {name: value for name, value in os.environ.items() if name not in telemetry.VARIABLES}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**clean, **environment}, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def test_importing_tlopt_switches_telemetry_off():
    assert told({}) == ["1", "1"]


def test_what_a_user_has_set_stays():
    assert told({"ORT_DISABLE_TELEMETRY": "0"}) == ["0", "1"]


def test_onnx_runtime_writes_no_identifier_of_the_machine(tmp_path, exported):
    onnxruntime = pytest.importorskip("onnxruntime")
    if tuple(map(int, onnxruntime.__version__.split(".")[:2])) < (1, 29):
        pytest.skip("ONNX Runtime before 1.29 has no telemetry here")
    home = {name: str(tmp_path) for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "TMPDIR")}
    # On machines of continuous integration it keeps quiet by itself.
    clean = {name: value for name, value in os.environ.items() if name not in (*telemetry.VARIABLES, "CI")}
    code = f"import tlopt\nwith tlopt.open_runner(tlopt.Artifact.load({str(exported.path)!r})): pass"
    subprocess.run([sys.executable, "-c", code], env={**clean, **home}, check=True, capture_output=True)
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == []
