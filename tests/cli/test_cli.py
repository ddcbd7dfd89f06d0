import errno
import functools
import json
import os
import signal
import subprocess
import sys
import time
import tomllib
import warnings
from pathlib import Path
from types import SimpleNamespace

import click
import pytest
from calling import called

import tlopt
from tlopt.artifact import Artifact
from tlopt.cli import main, root, terminal
from tlopt.cli.options import setting_options
from tlopt.publishing import check_file
from tlopt.reports import Report, table_kinds
from tlopt.settings import parameters
from tlopt.verbs import TABLE


def test_help_does_not_import_heavy_libraries():
    code = (
        "import sys\n"
        "from tlopt.cli import main\n"
        "from tlopt.verbs import TABLE\n"
        "for name in ['', *TABLE]:\n"
        "    try:\n        main([*name.split(), '--help'])\n    except SystemExit:\n        pass\n"
        "heavy = {'torch', 'timm', 'onnx', 'onnxruntime', 'openvino', 'tensorrt', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_an_unknown_command_gets_its_close_match(capsys):
    code, _, err = called(capsys, "prun")
    assert code == 2
    assert "Did you mean 'prune'?" in err


def test_an_unknown_option_is_a_usage_error(capsys):
    code, _, err = called(capsys, "prune", "x", "-o", "y", "--rato", "1")
    assert code == 2
    assert "--ratio" in err


def test_a_value_out_of_range_is_a_usage_error(capsys, tuned, tmp_path):
    code, out, err = called(capsys, "prune", tuned.path, "-o", tmp_path / "x", "--ratio", "2")
    assert (code, out) == (2, "")
    assert err.startswith("Error: ratio must be between 0 and 0.95, got 2.")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_artifact_is_an_error(capsys, tmp_path):
    code, out, err = called(capsys, "export", tmp_path / "none", "-o", tmp_path / "x")
    assert (code, out) == (1, "")
    assert err.startswith(f"Error: There is no artifact at {tmp_path / 'none'}.")
    assert "Traceback" not in err


@pytest.mark.slow
def test_a_command_prints_the_new_folder_and_nothing_else(capsys, tuned, tmp_path):
    code, out, _ = called(capsys, "export", tuned.path, "-o", tmp_path / "x")
    assert (code, out) == (0, f"{tmp_path / 'x'}\n")


@pytest.mark.slow
def test_raw_bytes_go_in_front_of_the_graph(capsys, tuned, tmp_path):
    code, _, _ = called(capsys, "export", tuned.path, "-o", tmp_path / "x", "--input", "uint8")
    assert code == 0
    assert Artifact.load(tmp_path / "x").card.preprocess.folded


def test_an_existing_output_needs_force(capsys, exported, tuned):
    before = sorted(path.name for path in exported.path.parent.iterdir())
    code, _, err = called(capsys, "export", tuned.path, "-o", exported.path)
    assert code == 2
    assert "exists already" in err
    assert "--force" in err
    assert sorted(path.name for path in exported.path.parent.iterdir()) == before


def test_show_tells_the_lineage(capsys, exported):
    code, out, _ = called(capsys, "show", exported.path)
    assert code == 0
    assert "finetune" in out
    assert "export" in out
    code, out, _ = called(capsys, "show", exported.path, "--json")
    assert json.loads(out)["details"]["card"]["kind"] == "onnx"


def test_a_pattern_that_no_name_fits_is_told(capsys):
    code, out, err = called(capsys, "list", "criteria", "tailor")
    assert (code, out) == (0, "")
    assert "criteria has a name like tailor" in err


@pytest.mark.parametrize("pattern", ["nothing", "timm", "pip", "nothing:*", "x*", "pip:x"])
def test_a_source_whose_names_cannot_fit_is_not_imported(capsys, monkeypatch, pattern):
    def load(_group, source):
        assert source == "pip" == pattern.partition(":")[0] != pattern
        return SimpleNamespace(names=lambda: ("efficientnet_lite0",))

    monkeypatch.setattr("tlopt.show.registry.load", load)
    code, out, err = called(capsys, "list", "models", pattern)
    assert (code, out) == (0, "")
    assert f"None of the models has a name like {pattern}" in err


@pytest.mark.parametrize("pattern", ["*", "pip:*", "p*", "?ip:eff*", "[p]ip:*0", "pip:efficientnet_lite0", "*lite0"])
def test_a_source_whose_names_may_fit_is_listed(capsys, monkeypatch, pattern):
    monkeypatch.setattr("tlopt.show.registry.load", lambda *_: SimpleNamespace(names=lambda: ("efficientnet_lite0",)))
    code, out, _ = called(capsys, "list", "models", pattern)
    assert code == 0
    assert "pip:efficientnet_lite0" in out.split()


def test_list_names_plugins_and_models(capsys):
    assert called(capsys, "list", "backends")[1].split() == ["onnxruntime", "openvino", "tensorrt", "torch"]
    assert "pip:efficientnet_lite0" in called(capsys, "list", "models", "pip:*")[1].split()
    code, _, err = called(capsys, "list", "model")
    assert code == 2
    assert "models" in err


def test_doctor_fails_when_a_required_part_cannot_be_used(capsys):
    code, out, _ = called(capsys, "doctor", "--require", "onnxruntime,torch:cpu")
    assert code == 0
    assert "onnxruntime:cpu" in out
    code, _, err = called(capsys, "doctor", "--require", "onnxruntim")
    assert code == 2
    assert "Did you mean 'onnxruntime'?" in err


def test_predict_answers_for_a_folder_and_a_file(capsys, exported, photos):
    code, out, _ = called(capsys, "predict", exported.path, photos, "--top", "2")
    assert code == 0
    lines = out.splitlines()
    assert len(lines) == 48
    right = sum(Path(line.split("\t")[0]).parent.name == line.split("\t")[1].split()[0] for line in lines)
    assert right > 32
    code, out, _ = called(capsys, "predict", exported.path, photos / "red" / "00.png", "--json")
    answer = json.loads(out)
    assert sum(top["probability"] for top in answer["top"]) == pytest.approx(1, abs=1e-4)
    code, _, err = called(capsys, "predict", exported.path, photos / "red" / "none.png")
    assert code == 1
    assert "There is no image or folder" in err


def test_the_readers_of_the_help_see_defaults_ranges_and_plugins():
    options = {option.name: option for option in setting_options(tlopt.prune)}
    assert "between 0 and 0.95" in options["ratio"].help
    assert "magnitude" in options["criterion"].help


def test_completion_scripts_are_written():
    for shell in ("bash", "zsh", "fish"):
        done = subprocess.run(
            [sys.executable, "-P", "-m", "tlopt"], env={**os.environ, "_TLOPT_COMPLETE": f"{shell}_source"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert "_TLOPT_COMPLETE" in done.stdout


def test_completion_knows_the_commands():
    env = {**os.environ, "_TLOPT_COMPLETE": "bash_complete", "COMP_WORDS": "tlopt fin", "COMP_CWORD": "1"}
    done = subprocess.run([sys.executable, "-P", "-m", "tlopt"], env=env, capture_output=True, text=True, check=False)
    assert "finetune" in done.stdout


def test_a_closed_pipe_is_no_error():
    command = f"{sys.executable} -P -m tlopt list backends | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert done.stdout == "onnxruntime\n"
    assert done.stderr == ""


def test_a_pipe_that_closes_in_the_middle_of_a_command_is_no_error(monkeypatch, capsys):
    def gone(*_):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    with monkeypatch.context() as patch:
        patch.setattr(sys.stdout, "write", gone)
        with pytest.raises(SystemExit) as caught:
            main(["list", "backends"])
    assert caught.value.code == 0
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_what_was_asked_for_by_name_and_cannot_run_is_an_error(capsys, exported, tmp_path):
    for command in (
        ["bench", exported.path], ["evaluate", exported.path], ["profile", exported.path],
        ["compare", exported.path, exported.path], ["report", exported.path, "-o", tmp_path / "report"],
        ["loadgen", exported.path, "--logs", tmp_path],
    ):  # fmt: skip
        code, out, err = called(capsys, *command, "--backend", "openvino:npu")
        assert code == 1, command
        assert "finds no NPU here" in err
        assert "0 candidates" not in out


def test_verbosity_may_stand_before_or_after_the_command(capsys, exported):
    assert called(capsys, "-q", "show", exported.path)[0] == 0
    assert called(capsys, "show", "-v", exported.path)[0] == 0
    code, _, err = called(capsys, "-q", "show", "-v", exported.path)
    assert code == 2
    assert "--verbose and --quiet exclude each other" in err


@pytest.mark.slow
def test_a_report_is_written_as_csv_and_as_markdown(capsys, exported, tmp_path):
    files = {kind: tmp_path / f"rows.{kind}" for kind in ("csv", "markdown")}
    options = [word for kind, file in files.items() for word in (f"--{kind}", str(file))]
    code, _, _ = called(capsys, "bench", exported.path, "--batch", 1, "--seconds", 0.01, "--no-memory", *options)
    assert code == 0
    assert files["csv"].read_text(encoding="utf-8").startswith("artifact,")
    assert files["markdown"].read_text(encoding="utf-8").startswith("| artifact |")


@pytest.mark.parametrize(
    ("command", "option"),
    [(name, option) for name, verb in TABLE.items() for option in ("--csv", "--markdown") if verb.tables],
)
def test_a_table_is_written_over_no_file_of_the_users(capsys, tmp_path, command, option):
    thesis = tmp_path / "thesis.tex"
    thesis.write_text("The work of three years.\n")
    words = [tmp_path / "none" for one in TABLE[command].takes if one.required]
    code, _, error = called(capsys, *command.split(), *words, option, thesis)
    assert code == 2
    assert f"thesis.tex exists already, and is not a table of tlopt {command}" in error
    assert thesis.read_text() == "The work of three years.\n"


def test_every_table_can_be_written_over_an_older_one(tmp_path):
    for verb in TABLE.values():
        assert bool(verb.tables) == (verb.gives in ("report", "study"))
        for first in verb.tables:
            older = Report(title="", rows=(dict.fromkeys((*first, "new"), 1),))
            for kind, text in (("csv", older.to_csv()), ("markdown", older.to_markdown())):
                (tmp_path / "table").write_text(text)
                check_file(tmp_path / "table", makes=table_kinds(verb.name, verb.tables)[kind])


def test_a_table_without_rows_can_be_written_over(tmp_path):
    empty = Report(title="", rows=(), notes=("Nothing was found.",))
    for kind, text in (("csv", empty.to_csv()), ("markdown", empty.to_markdown())):
        (tmp_path / "table").write_text(text)
        check_file(tmp_path / "table", makes=table_kinds("tlopt data audit", TABLE["data audit"].tables)[kind])


def test_a_file_that_could_not_be_written_is_refused_before_the_work(capsys, exported, tmp_path):
    code, _, error = called(capsys, "bench", exported.path, "--csv", tmp_path / "none" / "rows.csv")
    assert code == 2
    assert "there is no folder" in error
    code, _, error = called(capsys, "bench", exported.path, "--csv", "-")
    assert code == 2
    assert "/dev/stdout is the output" in error
    code, _, error = called(capsys, "bench", exported.path, "--markdown", tmp_path)
    assert code == 2
    assert "is a folder" in error


@pytest.mark.parametrize(
    ("command", "option"),
    [
        (f"{name} {' '.join('a' for one in verb.takes if one.required)}", f"--{option}")
        for name, verb in TABLE.items()
        for option in (
            *(("csv", "markdown") if verb.gives in ("report", "study") else ()),
            *(one.option for one in parameters(verb.function()) if one.setting.output),
        )
    ],
)
def test_a_file_that_cannot_be_written_is_refused_before_anything_is_read(capsys, tmp_path, command, option):
    (tmp_path / "file").write_text("")
    for name in ("r" * 250, "file/rows"):
        code, _, error = called(capsys, *command.split(), option, tmp_path / name)
        assert code in (1, 2)
        assert name.partition("/")[0] in error
        assert "part-" not in error
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_two_options_do_not_name_the_same_file(capsys, exported, tmp_path):
    pages = ["--html", tmp_path / "page", "--markdown", tmp_path / "deep" / ".." / "page"]
    (tmp_path / "deep").mkdir()
    code, _, error = called(capsys, "compare", exported.path, exported.path, *pages)
    assert code == 2
    assert "--markdown and --html name the same file" in error
    code, _, error = called(capsys, "optimize", tmp_path, "-o", tmp_path / "new", "--csv", tmp_path / "new")
    assert code == 2
    assert "--csv and --out both name" in error
    code, _, error = called(capsys, "data", "audit", tmp_path, "--fix", tmp_path / "new", "--html", tmp_path / "new")
    assert code == 2
    assert "--html and --fix both name" in error


@pytest.mark.slow
def test_ctrl_c_and_kill_leave_nothing_half_written(photos, tmp_path):
    command = [sys.executable, "-P", "-m", "tlopt", "finetune", str(photos), "-o", str(tmp_path / "out"),
               "--model", "tiny_models:cnn", "--epochs", "5000", "--cache-gb", "0"]  # fmt: skip
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    for sign, code in ((signal.SIGINT, 130), (signal.SIGKILL, -9)):
        # What a shell starts in the background ignores Ctrl-C, and hands that down.
        heard = functools.partial(signal.signal, signal.SIGINT, signal.default_int_handler)
        before = set(tmp_path.rglob("*"))
        with subprocess.Popen(
            command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, preexec_fn=heard
        ) as process:
            while not set(tmp_path.rglob("*")) - before:  # until it has begun to write
                assert process.poll() is None
                time.sleep(0.1)
            process.send_signal(sign)
            try:
                _, err = process.communicate(timeout=600)
            finally:
                process.kill()
        assert process.returncode == code
        assert "Traceback" not in err
        assert not (tmp_path / "out").exists()


def test_commands_are_click_commands():
    context = click.Context(root(), info_name="tlopt")
    assert all(isinstance(root().get_command(context, name), click.Command) for name in root().list_commands(context))


def test_the_packaging_names_the_entry_point():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    assert project["project"]["scripts"]["tlopt"] == "tlopt.__main__:start"


def test_a_table_is_not_written_over_the_manifest_that_a_card_names(capsys, exported, tmp_path):
    manifest = tmp_path / "labels.csv"
    manifest.write_text("path,label\n1.jpg,a\n")
    card = json.loads((exported.path / "artifact.json").read_text(encoding="utf-8"))
    card["images"]["path"] = str(manifest)
    (tmp_path / "artifact").mkdir()
    (tmp_path / "artifact" / "artifact.json").write_text(json.dumps(card), encoding="utf-8")
    code, _, error = called(capsys, "evaluate", tmp_path / "artifact", "--csv", manifest)
    assert code == 2
    assert "labels.csv is what this command reads" in error
    assert manifest.read_text() == "path,label\n1.jpg,a\n"


def test_a_very_large_image_is_no_reason_to_warn(capsys):
    from PIL import Image

    terminal.set_up_logging(0)
    with warnings.catch_warnings(record=True) as said:
        Image._decompression_bomb_check((10_000, 10_000))
    assert not said
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["show", ""], "ARTIFACT"),
        (["finetune", "", "-o", "out"], "IMAGES"),
        (["finetune", "images", "-o", ""], "--out"),
        (["bench", "runs/a", ""], "ARTIFACT..."),
        (["compare", "runs/a", ""], "CANDIDATE"),
        (["evaluate", "runs/a", "--images", ""], "images"),
        (["bench", "runs/a", "--csv", ""], "csv"),
    ],
)
def test_an_empty_text_is_not_the_current_folder(capsys, arguments, named):
    code, _, err = called(capsys, *arguments)
    assert code == 2
    assert named in err
    assert "empty text" in err or "got ''" in err


@pytest.mark.parametrize(
    "name", [name for name, verb in TABLE.items() if any(one.required and one.default is None for one in verb.takes)]
)
def test_an_argument_that_is_missing_is_a_usage_error(capsys, name):
    outs = ["-o", "out"] if TABLE[name].gives in ("path", "study") else []
    code, _, err = called(capsys, *name.split(), *outs)
    assert code == 2
    assert "Missing argument" in err


@pytest.mark.parametrize("text", ["", "Unable to allocate 27.9 TiB"])
def test_too_little_memory_is_no_bug(capsys, monkeypatch, text):
    def fail(*_args, **_options):
        raise MemoryError(text)

    monkeypatch.setattr("tlopt.cli.running.run", fail)
    code, _, err = called(capsys, "show", "x")
    assert code == 1
    assert err.startswith("Error: There is not enough memory")
    assert "smaller --batch" in err
