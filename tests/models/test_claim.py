"""Whose a run folder is: claimed before anything long begins, by one process, and gone on with by one."""

import json
import os
from pathlib import Path

import pytest

import train_sdpo
from lib.errors import InputError
from lib.models.claim import claim_run
from lib.models.runs import read_run, resumed_settings, write_run


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def begin(folder: str, minute: int, **record) -> None:
    Path(folder).mkdir(parents=True)
    write_run(Path(folder), {"settings": {}, "finished": False} | record)
    os.utime(Path(folder) / "run.json", (minute, minute))


def refusal(output: Path | None) -> str:
    with pytest.raises(InputError) as refused, claim_run(output, "", resume=True):
        pass
    return str(refused.value)


def test_two_new_runs_of_one_name_take_two_folders():
    with claim_run(None, "a", resume=False) as first, claim_run(None, "a", resume=False) as second:
        assert [str(first), str(second)] == ["runs/a", "runs/a-2"]
        write_run(first, {})
    assert [path.name for path in Path("runs").iterdir()] == ["a"]  # nothing was begun in the second
    assert [path.name for path in Path("runs/a").iterdir()] == ["run.json"]
    with claim_run(None, "a", resume=False) as third:
        assert str(third) == "runs/a-2"


def test_a_folder_that_is_taken_is_told_before_anything_is_loaded(monkeypatch):
    monkeypatch.setattr(train_sdpo, "load_start", None)
    Path("mine").mkdir()
    Path("mine/notes").touch()
    with pytest.raises(InputError, match="mine: exists already; choose another --output"):
        train_sdpo.main(["--output", "mine"])
    assert [path.name for path in Path("mine").iterdir()] == ["notes"]
    other = claim_run(Path("other"), "", resume=False)
    with other, pytest.raises(InputError, match="other: another process works in it"):
        train_sdpo.main(["--output", "other"])


def test_the_folder_is_claimed_while_the_model_is_loaded_and_left_as_it_was(monkeypatch):
    def fail(*_):
        with pytest.raises(InputError, match="another process works in it"):
            train_sdpo.main(["--output", "mine"])
        raise InputError("no such model")

    monkeypatch.setattr(train_sdpo, "load_start", fail)
    with pytest.raises(InputError, match="no such model"):
        train_sdpo.main(["--output", "mine"])
    assert not Path("mine").exists()


def test_what_a_start_that_was_killed_left_is_taken_over():
    Path("mine/.rows.12.incomplete").mkdir(parents=True)
    Path("mine/.run.json.12.incomplete").touch()
    Path("mine/.lock").touch()
    with claim_run(Path("mine"), "", resume=False) as mine:
        assert [path.name for path in mine.iterdir()] == [".lock"]


def test_a_resumed_run_is_freed_of_what_a_kill_left():
    begin("mine", 0)
    Path("mine/tmp1.incomplete").mkdir()
    Path("mine/tmp1.incomplete/config.json").touch()
    Path("mine/pretraining").mkdir()
    Path("mine/pretraining/.checkpoint.safetensors.12.incomplete").touch()
    Path("mine/pretraining/.tmpPdGDk1").touch()
    with claim_run(Path("mine"), "", resume=True) as mine:
        files = {str(path.relative_to(mine)) for path in mine.rglob("*")}
    assert files == {".lock", "run.json", "pretraining"}


def test_a_bare_resume_takes_the_newest_unfinished_run_that_nobody_trains():
    begin("runs/old", 1)
    begin("runs/older", 0)
    begin("runs/live", 2)
    begin("runs/done", 3, finished=True)
    with claim_run(Path("runs/live"), "", resume=True):
        with claim_run(None, "", resume=True) as first, claim_run(None, "", resume=True) as second:
            assert [str(first), str(second)] == ["runs/old", "runs/older"]
            assert refusal(None).startswith("--resume: no unfinished run under runs/ that no process works in")
        assert refusal(Path("runs/live")).startswith("runs/live: another process works in it")
    no_run = "no run to go on with (it has no run.json); give the command without --resume"
    assert refusal(Path("nowhere")) == f"nowhere: {no_run}"
    Path("runs/live/.other.incomplete").touch()  # of a run that is trained below a folder named by mistake
    assert refusal(Path("runs")) == f"runs: {no_run}" and Path("runs/live/.other.incomplete").exists()


def test_a_run_of_another_version_takes_todays_flags_for_those_it_lacks(capsys):
    begin("runs/a", 0, settings={"beta": 0.5, "seed": 1})
    flags = {"beta": 0.1, "seed": 1, "new_flag": 3}
    assert resumed_settings(Path("runs/a"), flags, {"seed"}) == {"beta": 0.5, "seed": 1, "new_flag": 3}
    assert capsys.readouterr().out == "note: runs/a was started by another version, without --new-flag 3\n"
    with pytest.raises(InputError, match="runs/a: the run was started with --beta 0.5, not 0.1; leave it out"):
        resumed_settings(Path("runs/a"), flags, {"beta"})
    with pytest.raises(InputError, match="runs/a: the run was started with --seed, unknown here"):
        resumed_settings(Path("runs/a"), {"beta": 0.1}, set())
    Path("runs/a/run.json").write_text(json.dumps([1]))
    with pytest.raises(InputError, match="run.json: no run's configuration, but a list"):
        read_run(Path("runs/a"))
