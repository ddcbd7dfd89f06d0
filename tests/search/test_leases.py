import json
import multiprocessing

import pytest

from tlopt.errors import MissingLibraryError, StudyError
from tlopt.search.study import leases
from tlopt.search.study.leases import Leases, owner
from tlopt.search.study.storage import Storage, Tried, shown_place

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
    assert shown_place("postgresql://me:secret@host/x") == "postgresql://me:…@host/x"


def test_optunas_own_tools_see_what_was_tried(journal):
    import optuna

    storage = Storage(journal, IDENTITY)
    tried = Tried(key="a", parameters={"network": "x"}, accuracy=0.9, latency_ms=4.0, excess_ms=-1.0)
    for _ in range(2):
        storage.show(tried)
    storage.show(Tried(key="b", parameters={"network": "y"}, accuracy=None, latency_ms=9.0, excess_ms=4.0, why="slow"))
    opened = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(journal))
    study = optuna.load_study(study_name="tlopt", storage=opened)
    assert [trial.params for trial in study.best_trials] == [{"network": "x"}]
    assert [trial.user_attrs["why"] for trial in study.trials] == ["", "slow"]


def test_of_some_kinds_one_step_is_done_at_a_time(journal):
    one, other = worker(journal), worker(journal)
    number = one.claim("time/a", alone=("time", "measure"))
    assert other.claim("measure/b", alone=("time", "measure")) is None
    assert other.claim("train/c") is not None
    one.storage.finish(number, {}, 1.0)
    assert other.claim("measure/b", alone=("time", "measure")) is not None
