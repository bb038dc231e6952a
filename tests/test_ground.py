"""What stands under everything: folders that appear whole, locks, exit codes, command lines."""

import argparse
import os
import signal
import sys
import threading

import pytest
import torch
from safetensors.torch import save_file
from tqdm import tqdm

from lib.cli import HelpFormatter, nonnegative_float, nonnegative_int, positive_float, positive_int, share, zero_to_one
from lib.errors import InputError, StopRequest, Terminated, run_script, terminate
from lib.paths import atomic_dir, cache_lock, lock


def make(folder, text, **flags):
    with atomic_dir(folder, **flags) as temporary:
        (temporary / "result").write_text(text)


def test_a_folder_that_another_process_made_meanwhile_costs_no_result(tmp_path):
    message = r"a: another process made it meanwhile; what was made here is .*a\.\d+"
    with pytest.raises(InputError, match=message), atomic_dir(tmp_path / "a") as temporary:
        (temporary / "result").write_text("second")
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "result").write_text("first")
    assert {path.name: (path / "result").read_text() for path in tmp_path.iterdir()} == {
        "a": "first",
        f"a.{os.getpid()}": "second",
    }


def test_of_a_shared_folder_the_first_stays(tmp_path):
    make(tmp_path / "a", "first")
    make(tmp_path / "a", "the same", shared=True)
    assert [(path.name, (path / "result").read_text()) for path in tmp_path.iterdir()] == [("a", "first")]


def test_a_lock_is_one_process_s_and_waits_for_its_end(tmp_path, capsys):
    first = lock(tmp_path / "lock")
    assert lock(tmp_path / "lock") is None
    threading.Timer(0.2, first.close).start()
    second = lock(tmp_path / "lock", waiting="wait")
    assert first.closed and capsys.readouterr().out == f"{tmp_path}: wait\n"
    second.close()


def test_whoever_waits_for_a_cache_entry_gets_a_lock_that_others_see(tmp_path):
    """The first one removes the file that the second one waits at."""
    entered, leave, order = threading.Event(), threading.Event(), []

    def second():
        with cache_lock(tmp_path / "entry"):
            order.append("second")
            assert lock(tmp_path / "entry.lock") is None

    with cache_lock(tmp_path / "entry"):
        waiting = threading.Thread(target=lambda: (entered.set(), second()))
        waiting.start()
        entered.wait()
        leave.wait(0.1)
        order.append("first")
    waiting.join()
    assert order == ["first", "second"] and list(tmp_path.iterdir()) == []


def cannot_write():
    save_file({"weight": torch.zeros(2)}, "/proc/weights")


@pytest.mark.parametrize(
    "end, code, message",
    [
        (InputError("a.jsonl:3: no label"), 1, "error: a.jsonl:3: no label"),
        (KeyboardInterrupt(), 130, ""),
        (Terminated(), 143, ""),
        (torch.OutOfMemoryError("CUDA out of memory.\nmore"), 1, "error: out of memory (CUDA out of memory.); lower"),
        (lambda: torch.empty(2**56), 1, "error: out of memory ("),
        (lambda: bytes(2**62), 1, "error: out of memory (MemoryError); lower --batch-size"),
        (cannot_write, 1, "error: weights could not be read or written: "),
    ],
)
def test_every_end_is_one_line_and_a_true_exit_code(end, code, message, capsys):
    def main():
        raise end() if callable(end) else end

    with pytest.raises(SystemExit) as stop:
        run_script(main)
    said = capsys.readouterr().err
    assert stop.value.code == code and said.startswith(message) and said.count("\n") == bool(message)


def test_a_progress_bar_ends_above_the_line_that_says_why(capsys):
    def main():
        bar = tqdm(total=3, file=sys.stderr)
        bar.update()
        raise InputError("the disk is full")

    with pytest.raises(SystemExit):
        run_script(main)
    assert capsys.readouterr().err.endswith("\nerror: the disk is full\n")


def test_a_fault_of_ours_keeps_its_traceback():
    def main():
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError):
        run_script(main)


def test_the_first_signal_is_noted_and_the_second_interrupts():
    before = signal.getsignal(signal.SIGINT)
    request = StopRequest()
    os.kill(os.getpid(), signal.SIGTERM)
    assert request.signum == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is terminate
    with pytest.raises(Terminated):
        os.kill(os.getpid(), signal.SIGTERM)
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("kind", "good", "bad", "what"),
    [
        (positive_int, ["1", "1000"], ["0", "-1", "1.5", "two", "", "nan"], "a whole number from 1 up"),
        (nonnegative_int, ["0", "9" * 400], ["-1", "x"], "a whole number from 0 up"),
        (positive_float, ["1e-9", "2"], ["0", "-1", "inf", "nan", "1e999", "x"], "a number above 0"),
        (nonnegative_float, ["0", "1.5"], ["-0.1", "inf", "nan", "x"], "a number from 0 up"),
        (zero_to_one, ["0", "1"], ["1.1", "-0.1", "nan", "x"], "a number from 0 to 1"),
        (share, ["0", "0.9"], ["1", "-0.1", "nan", "x"], "a number from 0 to below 1"),
    ],
)
def test_a_number_that_a_flag_does_not_take_is_refused_in_words(capsys, kind, good, bad, what):
    parser = argparse.ArgumentParser()
    parser.add_argument("--flag", type=kind)
    for text in good:
        assert parser.parse_args([f"--flag={text}"]).flag == float(text) or len(text) > 300
    for text in bad:
        with pytest.raises(SystemExit) as left:
            parser.parse_args([f"--flag={text}"])
        assert left.value.code == 2
        assert capsys.readouterr().err.splitlines()[-1].endswith(f"argument --flag: {text} is not {what}")


def test_help_shows_the_defaults_that_say_something_and_calls_numbers_n_and_x(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    parser = argparse.ArgumentParser(formatter_class=HelpFormatter)
    for name, default, kind in (("zero", 0, int), ("half", 0.5, share), ("list", [1, 2], str), ("path", None, None)):
        parser.add_argument(f"--{name}", default=default, type=kind, help=f"of {name}")
    parser.add_argument("--empty", nargs="*", default=[], help="of empty")
    parser.add_argument("--switch", action="store_true", help="of switch")
    lines = [" ".join(line.split()) for line in parser.format_help().splitlines()]
    assert "--zero N of zero (default: 0)" in lines
    assert "--half X of half (default: 0.5)" in lines
    assert "--list LIST of list (default: 1 2)" in lines
    assert "--path PATH of path" in lines and "--empty [EMPTY ...] of empty" in lines and "--switch of switch" in lines
