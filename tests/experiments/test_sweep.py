"""The sweep: its grid, what it leaves behind, that a kill costs nothing, and that its numbers are the predictions'."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import ROOT, rows, write_jsonl
from scipy.stats import norm

import eval_mc
import lib.experiments.scripts
import lib.experiments.sweep
import train_sdpo
from lib.errors import InputError
from lib.evaluation.predictions import write_predictions
from lib.experiments import results, variations
from lib.experiments.grid import Run, make_grid
from lib.experiments.report import _cell, _draws
from lib.experiments.scripts import Scripts
from lib.experiments.sweep import Sweep
from lib.models.runs import read_metrics, read_run
from lib.questions.data import load_split
from lib.questions.prompt_config import PromptConfig
from lib.training.losses import LOSSES

SWEEP = ROOT / "tools" / "sweep.py"
sys.path.insert(0, str(SWEEP.parent))
import sweep as script  # noqa: E402

GRID = ("--loss", "sdpo", "sft", "--num-neg", 2, "--seed", 0)


def arguments(model: Path, data: Path, *flags) -> list[str]:
    shared = ("--model", model, "--data", data, "--epochs", 2, "--batch-size", 4, "--jobs", 2, "--output", "grid")
    return list(map(str, (*GRID, *shared, *flags)))


def contents(folder: Path) -> dict[Path, bytes | int]:
    """Every file: what a report holds, and of anything else when it was written."""
    return {
        path: path.read_bytes() if path.name.startswith("report.") else path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".png"
    }


@contextmanager
def in_this_process(folder: Path, train=train_sdpo.main):
    """Below `folder`, a sweep's scripts run one after the other in this process and its first thread, whose signals
    they take over: as processes they take seconds each to start."""

    class Inline(Executor):
        def __init__(self, jobs: int):
            pass

        def submit(self, function, *given) -> Future:
            future = Future()
            future.set_result(function(*given))
            return future

    def run(scripts: Scripts, command: list[str], name: str, log: Path) -> int:
        _, path, *flags = command
        return {"train_sdpo.py": train, "eval_mc.py": eval_mc.main}[Path(path).name](flags)

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(lib.experiments.sweep, "ThreadPoolExecutor", Inline)
        patch.setattr(Scripts, "_run", run)
        yield


def interrupted(_) -> int:
    raise KeyboardInterrupt


@pytest.fixture(scope="module")
def gone_on_with(tmp_path_factory, model_folder, data_folder) -> Path:
    """A sweep that is interrupted before its first run, then killed with the scripts it started as soon as one of its
    two runs takes a step, and the same command once more. What is killed runs as processes."""
    folder = tmp_path_factory.mktemp("sweep")
    with in_this_process(folder, train=interrupted), pytest.raises(KeyboardInterrupt):
        script.main(arguments(model_folder, data_folder))
    process = subprocess.Popen(
        [sys.executable, str(SWEEP), *arguments(model_folder, data_folder)],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 300
    while not list(folder.glob("grid/runs/*/metrics.jsonl")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    tasks = Path(f"/proc/{process.pid}/task").glob("*/children")
    for pid in [process.pid, *(int(child) for task in tasks for child in task.read_text().split())]:
        os.kill(pid, signal.SIGKILL)
    process.wait()
    unfinished = [path.parent for path in folder.glob("grid/runs/*/run.json") if not read_run(path.parent)["finished"]]
    assert unfinished and not (folder / "grid" / "report.md").exists()
    with in_this_process(folder):
        assert script.main(arguments(model_folder, data_folder)) == 0
    return folder / "grid"


def test_a_kill_leaves_nothing_half_done(gone_on_with):
    runs = gone_on_with / "runs"
    assert {path.name for path in runs.iterdir()} == {"untuned", "sdpo-neg2-beta0.1-seed0", "sft-neg0-seed0"}
    for name in ("sdpo-neg2-beta0.1-seed0", "sft-neg0-seed0"):
        assert read_run(runs / name)["finished"]
        steps = [line["step"] for line in read_metrics(runs / name) if "loss" in line]
        assert steps == list(range(8))  # 13 questions in batches of 4, twice
    assert not list(gone_on_with.rglob("*incomplete*"))


def test_accuracies_are_those_of_the_predictions(gone_on_with):
    report = json.loads((gone_on_with / "report.json").read_text(encoding="utf-8"))
    results = {run["name"]: run for run in report["runs"]} | {"untuned": report["untuned"]}
    assert len(results) == 3
    z = norm.ppf(0.975)
    for name, result in results.items():
        for split, total in (("validation", 6), ("test", 8)):
            text = (gone_on_with / "runs" / name / f"predictions.{split}.sum.jsonl").read_text(encoding="utf-8")
            records = [json.loads(line) for line in text.splitlines()]
            best = [max(range(5), key=record["logprobs"].__getitem__) for record in records]
            share = sum(index == record["label"] for index, record in zip(best, records, strict=True)) / total
            assert result[split]["accuracy"] == share and len(records) == total
            centre = (share + z * z / (2 * total)) / (1 + z * z / total)
            half = z * (share * (1 - share) / total + z * z / (4 * total**2)) ** 0.5 / (1 + z * z / total)
            assert result[split]["interval"] == pytest.approx([max(0, centre - half), min(1, centre + half)])


def test_losses_are_those_of_the_steps(gone_on_with):
    report = json.loads((gone_on_with / "report.json").read_text(encoding="utf-8"))
    for run in report["runs"]:
        lines = [line for line in read_metrics(gone_on_with / "runs" / run["name"]) if "loss" in line]
        assert run["first_loss"] == lines[0]["loss"]
        means = [sum(line["loss"] for line in lines[:4]) / 4, sum(line["loss"] for line in lines[4:]) / 4]
        assert run["epoch_losses"] == pytest.approx(means)


def test_the_report_shows_what_was_run(gone_on_with):
    text = (gone_on_with / "report.md").read_text(encoding="utf-8")
    report = json.loads((gone_on_with / "report.json").read_text(encoding="utf-8"))
    assert "word overlap" in text and "| sdpo | 2 | 0.1 | 1 |" in text and "| sft | 0 |  | 1 |" in text
    figures = re.findall(r"!\[.*\]\((.*)\)", text)
    assert figures
    for figure in figures:
        assert (gone_on_with / figure).read_bytes().startswith(b"\x89PNG")
    questions = report["examples"]["questions"]
    assert len(questions) == 5 and set(questions[0]["written"]) == {"untuned", "K = 2"}
    assert all(_cell(question["gold"]) in text for question in questions)


def test_a_second_call_makes_nothing_again(gone_on_with, monkeypatch, model_folder, data_folder):
    before = contents(gone_on_with)
    monkeypatch.chdir(gone_on_with.parent)
    assert script.main(arguments(model_folder, data_folder)) == 0
    assert contents(gone_on_with) == before


def test_another_setting_in_the_same_folder_is_refused(gone_on_with, model_folder, data_folder):
    settings = json.loads((gone_on_with / "sweep.json").read_text(encoding="utf-8"))
    score = settings.pop("score")
    with pytest.raises(InputError, match="begun with --epochs 2, not 3; choose another --output"):
        Sweep(gone_on_with, settings | {"epochs": 3}, score=score)
    with pytest.raises(InputError, match="begun with --score sum, not reward; choose another --output"):
        Sweep(gone_on_with, settings, score="reward")


def test_one_file_for_every_split_is_refused_before_a_run(tmp_path, model_folder):
    """Its runs would be evaluated on what they were trained on."""
    data = write_jsonl(tmp_path / "q.jsonl", rows(4))
    with pytest.raises(InputError, match="q.jsonl: would be trained on and evaluated on; give a folder"):
        script.main(["--data", str(data), "--model", str(model_folder), "--output", str(tmp_path / "grid")])
    assert not (tmp_path / "grid").exists()


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A sweep of sdpo and sft whose scripts are stand-ins; `train` is the body of train_sdpo.py, which knows its
    `folder` and its `loss`."""
    monkeypatch.setattr(lib.experiments.scripts, "ROOT", tmp_path)
    (tmp_path / "eval_mc.py").write_text("import sys; open(sys.argv[sys.argv.index('--output') + 1], 'w')")
    head = """
import json, pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[sys.argv.index("--output") + 1])
loss = sys.argv[sys.argv.index("--loss") + 1] if "--loss" in sys.argv else None
finish = lambda: (folder / "run.json").write_text('{"finished": true}')
"""
    runs = make_grid(["sdpo", "sft"], [], [2], [0.1], [0])

    def make(train: str) -> tuple[Sweep, list[Run]]:
        (tmp_path / "runs" / "grid" / "runs" / "untuned").mkdir(parents=True, exist_ok=True)
        (tmp_path / "train_sdpo.py").write_text(head + train)
        return Sweep(tmp_path / "runs" / "grid", {"model": "m", "data": "d", "limit": None}), runs

    return make


def test_a_run_that_fails_is_named_and_stops_no_other(stand_in):
    sweep, runs = stand_in("folder.mkdir()\nfinish() if loss == 'sft' else sys.exit('error: too large')")
    message = (
        r"1 of 2 runs failed; sdpo-neg2-beta0.1-seed0: train_sdpo.py ended with 1 \(error: too large\); see .*\.log"
    )
    with pytest.raises(InputError, match=message):
        sweep.perform(runs, 1)
    assert [sweep.is_done(run) for run in runs] == [False, True]


def test_what_a_kill_left_of_a_report_is_removed(stand_in, tmp_path):
    left = tmp_path / "runs" / "grid" / ".report.md.7.incomplete"
    left.parent.mkdir(parents=True)
    left.touch()
    stand_in("")
    assert not left.exists()


def test_what_was_killed_before_its_first_record_begins_anew(stand_in):
    sweep, runs = stand_in("folder.mkdir()\nassert '--resume' not in sys.argv\nfinish()")
    (sweep.run_folder(runs[0].name)).mkdir()
    (sweep.run_folder(runs[0].name) / ".run.json.1.incomplete").write_text("{")
    sweep.perform(runs, 2)
    assert all(map(sweep.is_done, runs))


def test_a_run_goes_on_from_any_folder_with_what_it_was_begun_with(stand_in, tmp_path, monkeypatch):
    train = """
folder.mkdir(exist_ok=True)
with (folder / "flags").open("a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
if "--resume" in sys.argv:
    finish()
else:
    (folder / "run.json").write_text('{"finished": false}')
    sys.exit("error: stopped")
"""
    (tmp_path / "d").mkdir()
    monkeypatch.chdir(tmp_path)
    sweep, runs = stand_in(train)
    with pytest.raises(InputError, match="2 of 2 runs failed"):
        sweep.perform(runs, 1)
    sweep.perform(runs, 1)
    for run in runs:
        folder = sweep.run_folder(run.name)
        begun, gone_on = map(json.loads, (folder / "flags").read_text().splitlines())
        assert begun[:4] == ["--model", "m", "--data", str(tmp_path / "d")]
        assert gone_on == ["--resume", "--output", str(folder)]


def test_a_name_is_no_folder_of_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("smollm2", "demo", "base"):
        (tmp_path / name).mkdir()
    for model, expected in (("smollm2", "smollm2"), ("base", str(tmp_path / "base"))):
        with Sweep(tmp_path / f"of-{model}", {"model": model, "data": "demo"}) as sweep:
            assert sweep._anywhere().settings == {"model": expected, "data": "demo"}


def test_a_loss_with_fewer_seeds_leaves_their_columns_empty():
    def variant(loss: str, seeds: list[int]) -> dict:
        shown = {"accuracies": [0.5 + seed / 10 for seed in seeds], "accuracy": 0.5, "variance": None}
        return {"loss": loss, "num_neg": 1, "beta": 0.1, "seeds": seeds, "test": shown}

    text = _draws({"measured": "test", "variants": [variant("dpo", [0]), variant("swepo", [0, 1])]})
    assert "| dpo | 1 | 0.1 | 50.0% |  | 50.0% |" in text and "| swepo | 1 | 0.1 | 50.0% | 60.0% | 50.0% |" in text


def test_an_interrupt_reaches_each_script_once_and_waits(stand_in):
    """Also one that ignores Ctrl-C, as a shell has what it starts in the background do."""
    train = """
def save(*_):
    with (folder / "saved").open("a") as file:
        time.sleep(0.2)
        file.write("once ")
    sys.exit(143)
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, save)
folder.mkdir()
time.sleep(60)
"""
    sweep, runs = stand_in(train)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # training in this process would have taken it over

    def wait_and_interrupt():
        while not all(sweep.run_folder(run.name).exists() for run in runs):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    interrupted = threading.Thread(target=wait_and_interrupt)
    interrupted.start()
    with pytest.raises(KeyboardInterrupt):
        sweep.perform(runs, 2)
    interrupted.join()
    assert [(sweep.run_folder(run.name) / "saved").read_text() for run in runs] == ["once ", "once "]


def test_a_script_left_behind_keeps_the_next_sweep_waiting(stand_in, capsys):
    sweep, _ = stand_in("")
    left_behind = subprocess.Popen(["sleep", "0.5"], pass_fds=[sweep.lock.fileno()])
    with sweep:
        pass
    stand_in("")
    assert left_behind.poll() is not None or left_behind.wait(0.1) == 0
    assert "still works here; waiting for it" in capsys.readouterr().out


def test_predictions_are_lines_of_new_lines_alone(tmp_path, data_folder):
    """str.splitlines would break them inside an id."""
    rows = [json.loads(line) for line in (data_folder / "test.jsonl").open()]
    for number, row in enumerate(rows):
        row["id"] = f"{number}\u2028\x85"
    source = write_jsonl(tmp_path / "test.jsonl", rows)
    data = load_split(str(source), "test")
    records = [
        {"id": row["id"], "prediction": row["label"], "label": row["label"], "logprobs": [-1.0] * 5} for row in rows
    ]
    with Sweep(tmp_path / "sweep", {}) as sweep:
        for path in (sweep.predictions("a", "test"), sweep.predictions("untuned", "validation", "sum")):
            write_predictions(path, records)
        assert results._evaluation(sweep, "a", "test", data)["correct"] == len(rows)
        assert variations.outcomes(sweep, [], "sum")[0].accuracies == {"sum": 1.0}


def test_the_grid_of_the_papers():
    args = script.build_parser().parse_args([])
    runs = make_grid(args.loss, args.every_num_neg, args.num_neg, args.beta, args.seed)
    # Three seeds of each loss; S-DPO and SWEPO with every number of negatives.
    assert len(runs) == len(set(runs)) == 3 * (len(LOSSES) + 2 * 3)
    assert {run.loss for run in runs} == set(LOSSES)
    for loss, numbers in {"sdpo": {1, 2, 3, 4}, "swepo": {1, 2, 3, 4}, "dpo": {1}, "sft": {0}, "nca": {4}}.items():
        cells = [run for run in runs if run.loss == loss]
        assert {run.num_neg for run in cells} == numbers and len(cells) == 3 * len(numbers)
    assert [run.seed for run in runs] == sorted(run.seed for run in runs)


def test_a_loss_without_beta_is_run_once_for_all_betas():
    runs = make_grid(["sdpo", "listwise", "sft"], ["sdpo", "listwise"], [1, 3], [0.1, 0.5], [7])
    assert runs == [
        *(Run("sdpo", number, beta, 7) for beta in (0.1, 0.5) for number in (1, 3)),
        *(Run("listwise", number, None, 7) for number in (1, 3)),
        Run("sft", 0, None, 7),
    ]


def test_losses_beside_every_seed_take_the_first_seed_alone():
    runs = make_grid(["sdpo", "sft"], ["sdpo"], [1, 4], [0.1], [3, 5], every_seed=["sdpo"])
    assert [(run.loss, run.num_neg, run.seed) for run in runs] == [
        ("sdpo", 1, 3),
        ("sdpo", 4, 3),
        ("sft", 0, 3),
        ("sdpo", 1, 5),
        ("sdpo", 4, 5),
    ]
    fewer = make_grid(["sdpo"], ["sdpo"], [1, 2, 4], [0.1], [3, 5], every_seed_num_neg=[4])
    assert [(run.num_neg, run.seed) for run in fewer] == [(1, 3), (2, 3), (4, 3), (4, 5)]


@pytest.mark.parametrize("score", ["reward", "all"])
def test_a_sweep_asks_for_its_score_and_knows_what_it_has(stand_in, tmp_path, score):
    _, runs = stand_in("folder.mkdir()\nfinish()")
    (tmp_path / "eval_mc.py").write_text(
        """
import pathlib, sys
value = lambda flag: sys.argv[sys.argv.index(flag) + 1]
output, names = pathlib.Path(value("--output")), [""]
output.parent.mkdir(parents=True, exist_ok=True)
if value("--score") == "all":
    names = [".sum", ".pmi"] + ([] if value("--model") == "m" else [".reward"])
for name in names:
    output.with_suffix(f"{name}.jsonl").write_text(value("--score"))
"""
    )
    settings = {"model": "m", "data": "d", "limit": None}
    with Sweep(tmp_path / "own", settings, score=score, splits=["validation"]) as sweep:
        assert not sweep.is_done(runs[0])
        sweep.perform(runs, 1)
        assert all(map(sweep.is_done, runs))
        tuned, untuned = ("reward", "pmi") if score == "all" else ("reward", "sum")
        assert sweep.predictions(runs[0].name, "validation", tuned).read_text() == score
        # The untuned model has no reference to take a reward by.
        expected = "sum" if score == "reward" else "all"
        assert sweep.predictions("untuned", "validation", untuned).read_text() == expected
        assert not sweep.predictions(runs[0].name, "test").exists()


def test_the_untuned_model_is_evaluated_under_the_prompt_of_the_runs(stand_in, tmp_path, data_folder, model_folder):
    """Their flags reach training, and the contract they make reaches the model that has none."""
    _, runs = stand_in("folder.mkdir()\nfinish()\n(folder / 'flags').write_text(' '.join(sys.argv))")
    (tmp_path / "eval_mc.py").write_text(
        "import pathlib, sys\npath = pathlib.Path(sys.argv[sys.argv.index('--output') + 1])\n"
        "path.parent.mkdir(parents=True, exist_ok=True)\npath.write_text(' '.join(sys.argv))"
    )
    folder = tmp_path / "own"
    given = ["--data", str(data_folder), "--max-length", "256", "--template", "{context} So:"]
    args = script.build_parser().parse_args([*given, "--model", str(model_folder), "--output", str(folder)])
    settings = {name: getattr(args, name) for name in script.SHARED}
    with Sweep(folder, settings, splits=["test"]) as sweep:
        script.write_contract(args)
        sweep.perform(runs[:1], 1)
        assert "--template {context} So: --max-length 256" in (sweep.run_folder(runs[0].name) / "flags").read_text()
        assert f"--contract {folder}" in sweep.predictions("untuned", "test").read_text()
        assert "--contract" not in sweep.predictions(runs[0].name, "test").read_text()
    assert PromptConfig.load(folder) == PromptConfig("{context} So:", 256, max_ending=128)


@pytest.mark.slow
def test_the_demo_with_a_small_grid(tmp_path):
    """It learns, and every section of the report is there. How soon depends on the demo's model, which each machine
    makes for itself: after 3 epochs one had 83 %, another 34; after 8, one had all right with one negative too."""
    grid = f"--loss sdpo dpo swepo --num-neg 1 4 --seed 0 --epochs 8 --output {tmp_path / 'grid'}"
    subprocess.run(["make", "sweep-demo", f"GRID={grid}"], cwd=ROOT, check=True)
    report = json.loads((tmp_path / "grid" / "report.json").read_text(encoding="utf-8"))
    accuracy = {(one["loss"], one["num_neg"]): one["test"]["accuracy"] for one in report["variants"]}
    assert accuracy["sdpo", 4] > max(0.4, report["untuned"]["test"]["accuracy"] + 0.2)
    text = (tmp_path / "grid" / "report.md").read_text(encoding="utf-8")
    assert re.findall(r"^## .*\((.*)\)$", text, re.MULTILINE) == [
        "Table 3 and Figure 2 of Marsh",
        "Table 2 of SWEPO",
        "Figure 4 of SWEPO",
        "section 6.3 of Marsh",
    ]
