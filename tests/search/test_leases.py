import json
import multiprocessing

import pytest

from tlopt.errors import MissingLibraryError, StudyError
from tlopt.search.study import leases
from tlopt.search.study.backing import shown_place
from tlopt.search.study.leases import Leases, owner, refuse_live
from tlopt.search.study.storage import Storage, Tried

IDENTITY = {"tlopt": "1", "space": "a"}


@pytest.fixture
def journal(tmp_path):
    return str(tmp_path / "study.journal")


def worker(journal, **given):
    return Leases(storage=Storage(journal, IDENTITY), who={**owner("all"), **given})


def test_of_two_workers_one_gets_a_step_and_the_other_sees_its_result(journal):
    one, other = worker(journal), worker(journal)
    number = one.claim("train/a")
    assert number is not None
    assert other.claim("train/a") is None
    assert one.held(other.storage.entries()).keys() == {"train/a"}
    one.storage.finish(number, {"accuracy": 0.5}, 1.0)
    assert other.claim("train/a") is None
    [entry] = [entry for entry in other.storage.entries() if entry.state == "done"]
    assert entry.result == {"accuracy": 0.5}


def test_a_step_is_taken_over_from_a_process_that_is_gone(journal):
    gone = multiprocessing.get_context("fork").Process(target=lambda: worker(journal).claim("train/a"))
    gone.start()
    gone.join()
    one = worker(journal)
    assert one.held(one.storage.entries()) == {}
    assert one.claim("train/a") is not None
    assert [entry.state for entry in one.storage.entries()] == ["given up", "held"]


def test_a_step_is_taken_over_from_another_machine_that_has_shown_no_sign_of_life(journal):
    now = [0.0]
    far = worker(journal, boot="another")
    number = far.claim("train/a")
    one = Leases(storage=Storage(journal, IDENTITY), who=owner("all"), clock=lambda: now[0])
    assert one.claim("train/a") is None
    now[0] = leases.STALE_S
    far.storage.beat(number, 1)
    assert one.claim("train/a") is None
    now[0] = 2 * leases.STALE_S + 1
    assert one.claim("train/a") is not None
    # What the first one finds out late does no harm: both would have made the same.
    far.storage.give_up(number)


def test_a_step_whose_work_raises_is_free_again(journal):
    one = worker(journal)
    number = one.claim("train/a")
    with pytest.raises(KeyboardInterrupt), one.beating(number):
        raise KeyboardInterrupt
    assert worker(journal).claim("train/a") is not None


def test_a_study_of_another_search_or_another_tlopt_is_refused(journal):
    Storage(journal, IDENTITY)
    for differ, message in ({"space": "b"}, "its space differ"), ({"tlopt": "2"}, r"tlopt differ \(1 there, 2 here\)"):
        with pytest.raises(StudyError, match=message) as caught:
            Storage(journal, {**IDENTITY, **differ})
        assert caught.value.exit_code == 1
    assert Storage(journal, None).entries() == []
    assert Storage(journal, {**IDENTITY, "space": "b"}, anew=True).entries() == []


@pytest.mark.parametrize(
    "content", ["hello", "hello\n", "{}\n", '{"op_code": 99}\n', "[1]\n[2]\n", '{"op_code":0}\nx\n']
)
def test_a_damaged_study_is_one_error_and_stays_as_it_is(tmp_path, content):
    file = tmp_path / "notes.txt"
    file.write_text(content)
    with pytest.raises(StudyError, match=r"notes\.txt is damaged"):
        Storage(str(file), IDENTITY)
    assert file.read_text() == content


@pytest.mark.parametrize("where", ["{}/search#2/study.journal", "sqlite:///{}/search#2/study.db"])
def test_a_folder_may_have_the_sign_in_its_name_that_names_a_study(tmp_path, where):
    (tmp_path / "search#2").mkdir()
    for study in (where.format(tmp_path), where.format(tmp_path) + "#mine"):
        worker(study).claim("train/a")
        assert [entry.key for entry in Storage(study, None).entries()] == ["train/a"]
        with pytest.raises(StudyError, match="works on the study"):
            refuse_live(study)
    assert [path.name for path in tmp_path.iterdir()] == ["search#2"]


def test_what_a_full_disk_left_of_the_last_line_is_cut_off(journal):
    one = worker(journal)
    one.storage.finish(one.claim("train/a"), {}, 1.0)
    with open(journal, "a") as file:
        file.write('{"op_code":4,"study')
    assert [entry.state for entry in Storage(journal, IDENTITY).entries()] == ["done"]
    with open(journal) as file:
        assert all(json.loads(line) for line in file)


def test_a_study_in_a_database_is_shared_too(tmp_path):
    url = f"sqlite:///{tmp_path}/study.db#mine"
    one, other = (Leases(storage=Storage(url, IDENTITY), who=owner("all")) for _ in range(2))
    number = one.claim("train/a")
    assert other.claim("train/a") is None
    one.storage.finish(number, {"accuracy": 0.5}, 1.0)
    assert [entry.result for entry in other.storage.entries() if entry.state == "done"] == [{"accuracy": 0.5}]
    with pytest.raises(StudyError, match="cannot be used"):
        Storage(f"sqlite:///{tmp_path}/no/such/folder/study.db", IDENTITY)
    with pytest.raises((MissingLibraryError, StudyError)):
        Storage("postgresql+nodriver://me:secret@localhost/x", IDENTITY)


@pytest.mark.parametrize("kind", ["journal", "database"])
def test_optunas_own_tools_see_what_was_tried(kind, journal, tmp_path):
    import optuna

    url = f"sqlite:///{tmp_path}/study.db"
    storage = Storage(journal if kind == "journal" else url, IDENTITY)
    tried = Tried(key="a", parameters={"network": "x"}, accuracy=0.9, latency_ms=4.0, excess_ms=-1.0)
    other = Tried(key="b", parameters={"network": "y"}, accuracy=None, latency_ms=9.0, excess_ms=4.0, why="slow")
    for one in (tried, tried, other):
        storage.show(one, {"network": ["x", "y"]})
    backend = optuna.storages.journal.JournalFileBackend
    opened = optuna.storages.JournalStorage(backend(journal)) if kind == "journal" else url
    study = optuna.load_study(study_name="tlopt", storage=opened)
    assert [trial.params for trial in study.best_trials] == [{"network": "x"}]
    assert [trial.user_attrs["why"] for trial in study.trials] == ["", "slow"]


def test_a_database_whose_tables_another_worker_makes_right_now_is_opened_again(tmp_path, monkeypatch):
    import optuna
    from sqlalchemy.exc import IntegrityError

    failures = iter([1, 1, 1])

    class Racing(optuna.storages.RDBStorage):
        def __init__(self, url, **given):
            if next(failures, None):
                raise IntegrityError("CREATE TABLE studies", {}, Exception("duplicate key value"))
            super().__init__(url, **given)

    monkeypatch.setattr(optuna.storages, "RDBStorage", Racing)
    monkeypatch.setattr("time.sleep", lambda _: None)
    assert Storage(f"sqlite:///{tmp_path}/study.db", IDENTITY).entries() == []


def test_of_some_kinds_one_step_is_done_at_a_time(journal):
    one, other = worker(journal), worker(journal)
    number = one.claim("time/a", alone=("time", "measure"))
    assert other.claim("measure/b", alone=("time", "measure")) is None
    assert other.claim("train/c") is not None
    one.storage.finish(number, {}, 1.0)
    assert other.claim("measure/b", alone=("time", "measure")) is not None


@pytest.mark.parametrize(
    ("where", "shown"),
    [
        ("runs/study.journal#mine", "runs/study.journal#mine"),
        ("sqlite:///runs/a@b.db#mine", "sqlite:///runs/a@b.db#mine"),
        ("postgresql://host/x#mine", "postgresql://host/x#mine"),
        ("postgresql://me:secret@host/x", "postgresql://…@host/x"),
        ("postgresql://me:sec/ret@host/x", "postgresql://…@host/x"),
        ("postgresql://me:secret@more@host/x", "postgresql://…@host/x"),
        ("postgresql://host/x?user=me&password=secret#mine", "postgresql://host/x#mine"),
        ("postgresql://host/x?password=sec@secret", "postgresql://…"),
        ("postgresql://me:sec?secret@host/x", "postgresql://…"),
        ("postgresql://me:sec#secret@host/x", "postgresql://…"),
    ],
)
def test_no_password_is_shown(where, shown):
    assert shown_place(where) == shown


@pytest.mark.parametrize("kind", ["journal", "database"])
def test_a_study_that_is_not_tlopts_is_refused_and_stays(tmp_path, kind):
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if kind == "journal":
        where = str(tmp_path / "study")
        opened = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(where))
    else:
        where = f"sqlite:///{tmp_path}/study.db"
        opened = optuna.storages.RDBStorage(where)
    study = optuna.create_study(storage=opened, study_name="mine", directions=["maximize", "minimize"])
    study.add_trial(optuna.trial.create_trial(values=[0.5, 1.0]))
    for given in ({"anew": True}, {}):
        with pytest.raises(StudyError, match="has a study mine that is not tlopt's") as caught:
            Storage(f"{where}#mine", IDENTITY, **given)
        assert "#NAME" in caught.value.hint
    with pytest.raises(StudyError, match="not tlopt's"):
        refuse_live(f"{where}#mine")
    assert [one.study_name for one in optuna.get_all_study_summaries(opened)] == ["mine"]
    assert len(study.trials) == 1
    assert Storage(f"{where}#other", IDENTITY, anew=True).entries() == []


def test_a_study_is_not_begun_anew_while_another_one_works_on_it(journal):
    refuse_live(journal)  # there is none
    near = worker(journal)
    number = near.claim("train/a")
    with pytest.raises(StudyError, match=r"Process \d+ of .* works on the study"):
        refuse_live(journal)
    near.storage.give_up(number)
    refuse_live(journal)

    far, now = worker(journal, boot="another"), [0.0]
    number = far.claim("train/a")

    def beats(seconds):
        now[0] += seconds
        far.storage.beat(number, int(now[0]) + 1)

    with pytest.raises(StudyError, match="works on the study"):
        refuse_live(journal, clock=lambda: now[0], sleep=beats)

    def silent(seconds):
        now[0] += seconds

    refuse_live(journal, clock=lambda: now[0], sleep=silent)


def test_to_look_at_a_study_changes_nothing(journal, tmp_path):
    Storage(journal, IDENTITY)
    with open(journal, "a") as file:
        file.write('{"op_code":4,"study')
    with open(journal) as file:
        content = file.read()
    assert Storage(journal, None).entries() == []
    assert Storage(f"{journal}#other", None).entries() == []
    with open(journal) as file:
        assert file.read() == content
    for missing in (str(tmp_path / "none"), f"sqlite:///{tmp_path}/none.db"):
        with pytest.raises(StudyError):
            Storage(missing, None)
    assert [one.name for one in tmp_path.iterdir()] == ["study.journal"]


def test_a_process_of_this_machine_that_runs_keeps_its_step_however_long_it_is_silent(journal):
    now = [0.0]
    number = worker(journal).claim("train/a")
    one = Leases(storage=Storage(journal, IDENTITY), who=owner("all"), clock=lambda: now[0])
    assert one.held(one.storage.entries())
    now[0] = 3 * leases.STALE_S
    assert one.held(one.storage.entries())["train/a"].number == number


def test_the_result_of_a_step_that_was_taken_over_is_left_out(journal):
    one = worker(journal)
    number = one.claim("train/a")
    one.storage.give_up(number)
    one.storage.finish(number, {"accuracy": 0.5}, 1.0)
    assert [(entry.state, entry.result) for entry in one.storage.entries()] == [("given up", {})]
