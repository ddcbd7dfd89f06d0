"""benchmarks/resolve.py: what it calls a failure, and what it does not."""

from subprocess import CompletedProcess, TimeoutExpired

import pytest

from benchmarks import resolve

GOOD = "onnxruntime-gpu==1.31.1\nnvidia-nccl-cu13==2.30.7\ntensorrt-cu13==11.4.0.106\nnumpy==2.5.5\n"


def answering(monkeypatch, code=0, found="", said=""):
    monkeypatch.setattr(resolve, "resolved", lambda *_: CompletedProcess([], code, found, said))
    monkeypatch.setattr(resolve.sys, "argv", ["resolve.py", "gpu"])


def test_what_goes_together_is_shown_for_each_python(monkeypatch, capsys):
    answering(monkeypatch, found=GOOD)
    assert resolve.main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(",")[0] for line in lines] == ["tlopt[gpu]"] * 3
    assert all(line.endswith("onnxruntime-gpu 1.31.1, tensorrt-cu13 11.4.0.106") for line in lines)


@pytest.mark.parametrize(
    ("code", "found", "said", "shown"),
    [
        (1, "", "No solution found when resolving dependencies", "No solution found"),
        (0, GOOD + "tensorrt-cu12-libs==10.13.3.9\n", "", "packages for CUDA 12 and 13 together"),
    ],
)
def test_what_does_not_go_together_fails(monkeypatch, capsys, code, found, said, shown):
    answering(monkeypatch, code, found, said)
    assert resolve.main() == 1
    assert shown in capsys.readouterr().out


def test_without_a_package_index_nothing_is_checked_and_the_reason_is_said(monkeypatch, capsys):
    answering(monkeypatch, 2, "", "error sending request for url (https://pypi.org/simple/click/)")
    assert resolve.main() == 0
    assert "Not checked: no package index answers" in capsys.readouterr().out

    def slow(extra, python):
        raise TimeoutExpired([], resolve.LIMIT_S)

    monkeypatch.setattr(resolve, "resolved", slow)
    assert resolve.main() == 0
    assert "Not checked: no answer within" in capsys.readouterr().out
