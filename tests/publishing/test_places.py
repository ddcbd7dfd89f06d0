import functools
import os
from pathlib import Path

import pytest
from contents import CARD, FOREIGN, LEFT, MAKES, MINE, OURS, SET, fill

from tlopt.errors import OutputError, OutputExistsError
from tlopt.publishing import PAGE, check_file, check_place, draft


@pytest.mark.parametrize("kind", OURS)
def test_force_replaces_what_tlopt_made(tmp_path, kind):
    out = fill(tmp_path / "out", OURS[kind])
    with pytest.raises(OutputExistsError, match="exists already") as caught:
        check_place(out)
    assert "--force" in caught.value.hint
    assert check_place(out, force=True, makes=MAKES.get(kind, "artifact")) == out


@pytest.mark.parametrize("kind", OURS)
@pytest.mark.parametrize("makes", ["artifact", "report", "set", "deployment", "search"])
def test_force_replaces_no_images_with_an_artifact_and_no_artifact_with_a_report(tmp_path, kind, makes):
    out = fill(tmp_path / "out", OURS[kind])
    own = MAKES.get(kind, "artifact")
    if own in (makes, "report"):
        assert check_place(out, force=True, makes=makes) == out
        return
    with pytest.raises(OutputExistsError, match="--force does not replace it with a"):
        check_place(out, force=True, makes=makes)


@pytest.mark.parametrize("kind", FOREIGN)
def test_force_replaces_nothing_else_and_names_what_would_be_lost(tmp_path, kind):
    out = fill(tmp_path / "out", FOREIGN[kind])
    lost = r"(notes\.txt|\.(jpg|json|html|onnx|safetensors)).* would be lost"
    with pytest.raises(OutputExistsError, match=lost) as caught:
        check_place(out, force=True, makes="set" if "set" in kind else "artifact")
    assert caught.value.exit_code == 2
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("kind", LEFT)
def test_force_replaces_the_folders_that_tlopt_left_empty(tmp_path, kind):
    files = {name: text for name, text in OURS[kind].items() if os.path.dirname(name) not in LEFT[kind]}
    out = fill(tmp_path / "out", files)
    for name in LEFT[kind]:
        (out / name).mkdir(parents=True, exist_ok=True)
    assert check_place(out, force=True, makes=MAKES.get(kind, "artifact")) == out


@pytest.mark.parametrize(("kind", "folder"), [(kind, folder) for kind in MINE for folder in MINE[kind]])
def test_force_replaces_no_empty_folder_of_the_user(tmp_path, kind, folder):
    out = fill(tmp_path / "out", OURS[kind])
    (out / folder).mkdir(parents=True)
    for litter in ((), (".DS_Store",)):
        fill(out / folder, dict.fromkeys(litter, ""))
        with pytest.raises(OutputExistsError, match=f"did not put there: {folder}/ would be lost"):
            check_place(out, force=True, makes=MAKES.get(kind, "artifact"))


def test_force_never_replaces_what_is_read_or_what_holds_it(tmp_path, monkeypatch):
    out = fill(tmp_path / "set", SET)
    (tmp_path / "link").symlink_to(out)
    (tmp_path / "into").symlink_to(out / "a")
    monkeypatch.chdir(tmp_path)
    for read in (out, out / "a", out / "manifest.csv", tmp_path / "link", tmp_path / "into", Path("set"), "set/a"):
        with pytest.raises(OutputExistsError, match="what this command reads"):
            check_place(out, force=True, reads=[read])
    with pytest.raises(OutputExistsError, match="what this command reads"):
        check_place(tmp_path / "x" / ".." / "set", force=True, reads=[out])
    assert check_place(out, force=True, reads=[tmp_path, tmp_path / "other"], makes="set")


def test_a_folder_that_is_mounted_a_second_time_is_known(tmp_path, monkeypatch):
    out, other = fill(tmp_path / "out", OURS["artifact"]), fill(tmp_path / "other" / "set", SET).parent
    true_stat = Path.stat
    monkeypatch.setattr(Path, "stat", lambda path, **given: true_stat(out if path == other else path, **given))
    with pytest.raises(OutputExistsError, match="holds what this command reads"):
        check_place(out, force=True, reads=[other / "set", other / "set" / "a"])


def test_a_folder_that_cannot_be_looked_into_is_not_replaced(tmp_path, monkeypatch):
    out = fill(tmp_path / "out", {**OURS["artifact"], "closed/mine.txt": ""})
    true_scandir = os.scandir

    def scandir(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return true_scandir(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(OutputExistsError, match="did not put there: closed would be lost"):
        check_place(out, force=True)


def test_the_current_folder_and_those_above_it_are_refused(tmp_path, monkeypatch):
    inner = fill(tmp_path / "a", OURS["artifact"]) / "tensorboard"
    monkeypatch.chdir(inner)
    for out in (".", "..", "../.", inner, tmp_path / "a", "../../a", tmp_path):
        for force in (False, True):
            with pytest.raises(OutputExistsError, match="the current folder"):
                check_place(out, force=force)


def test_home_and_root_are_refused(tmp_path, monkeypatch):
    home = fill(tmp_path / "home", OURS["artifact"])
    monkeypatch.setenv("HOME", str(home))
    with pytest.raises(OutputExistsError, match="is your home folder"):
        check_place(home, force=True)
    with pytest.raises(OutputExistsError, match="is the root folder"):
        check_place("/", force=True)


def test_links_files_and_names_that_cannot_be_are_refused(tmp_path):
    fill(tmp_path, {"file": "mine", "a/artifact.json": CARD})
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "dangling").symlink_to("nowhere")
    for place, message in {
        "file": "and is a file",
        "file/a": "is, or lies below, a file",
        "file/a/b": "is, or lies below, a file",
        "link": "is a symbolic link",
        "dangling": "is a symbolic link",
    }.items():
        for force in (False, True):
            with pytest.raises(OutputExistsError, match=message):
                check_place(tmp_path / place, force=force)
    with pytest.raises(OutputError, match="longer than"):
        check_place(tmp_path / ("x" * 255))
    assert (tmp_path / "file").read_text() == "mine"


def test_the_longest_name_that_is_not_refused_can_be_made(tmp_path):
    with draft(tmp_path / ("x" * 239)):
        pass
    with pytest.raises(OutputError, match="its name is longer than 239 bytes"):
        check_place(tmp_path / ("x" * 240))


def test_a_folder_that_may_not_be_written_into_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, _how: Path(path) != tmp_path)
    with pytest.raises(OutputError, match="you may not write into"):
        check_place(tmp_path / "new" / "a")


def test_the_root_of_a_file_system_is_refused_before_the_work(tmp_path, monkeypatch):
    (tmp_path / "volume").mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda path: path == tmp_path / "volume")
    with pytest.raises(OutputExistsError, match="is the root of a file system"):
        check_place(tmp_path / "volume")


@pytest.mark.parametrize("out", ["~", "~/runs/tuned", "./~/x"])
def test_a_tilde_that_no_shell_has_seen_makes_no_folder_of_that_name(out, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for check in (check_place, functools.partial(check_file, makes=PAGE)):
        with pytest.raises(OutputError, match="only a shell") as raised:
            check(out)
    assert raised.value.hint == f"Write {Path.home().joinpath(*Path(out).parts[1:])}"
    check_place("~backup")
