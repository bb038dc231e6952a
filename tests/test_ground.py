"""What stands under everything: folders that appear whole, locks, exit codes."""

import os
import signal
import sys
import threading

import pytest
import torch
from safetensors.torch import save_file
from tqdm import tqdm

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
