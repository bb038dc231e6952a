"""The whole experiment on made-up text: every stage, stopped on the way and gone on with."""

import csv
import json
import re
import sys
from pathlib import Path

import pytest
from conftest import ROOT, opinions, rows, write_jsonl

sys.path.insert(0, str(ROOT / "tools"))
import reproduce  # noqa: E402
import sweep as tools_sweep  # noqa: E402

from lib.errors import InputError  # noqa: E402
from lib.evaluation.predictions import by_score  # noqa: E402
from lib.experiments import reproduction  # noqa: E402
from lib.experiments.sweep import Sweep  # noqa: E402
from lib.experiments.variations import Outcome, best  # noqa: E402
from lib.questions.data import load_split  # noqa: E402

TINY = {
    "aside": 4,
    "real": None,
    "mined": ("real", 100),
    "pretrain": ["--params", "5m", "--vocab", "400", "--row-length", "64", "--batch-size", "64", "--epochs", "1"],
    "train": {"batch_size": 4, "learning_rate": 1e-3, "epochs": 1},
    "questions": 8,
    "score": "reward",
    "full": 3e-4,
    "left_out": (),
    "jobs": 2,
}


def right_on(share: float) -> list[dict]:
    """Predictions on ten questions."""
    return [{"prediction": 0, "label": int(number >= 10 * share)} for number in range(10)]


def test_the_best_variation_is_the_highest_on_validation_by_the_score_that_is_wanted_and_never_the_untuned_model():
    found = [
        Outcome("untuned", "", {"sum": right_on(0.9)}, "reward"),
        Outcome("a", "", {"sum": right_on(0.3), "pmi": right_on(0.6), "reward": right_on(0.4)}, "reward"),
        Outcome("b", "", {"sum": right_on(0.2), "pmi": right_on(0.5), "reward": right_on(0.5)}, "reward"),
    ]
    assert best(found).name == "b" and best(found).score == "reward" and found[0].score == "sum"


def test_the_sizes_differ_in_flags_alone():
    first, *others = reproduce.SIZES.values()
    assert all(one.keys() == first.keys() and one["train"].keys() >= first["train"].keys() for one in others)


def test_a_folder_begun_with_another_base_is_refused(tmp_path):
    flags = ["--size", "pretrained", "--casehold", "none", "--opinions", "none", "--output", str(tmp_path)]
    for base in ("smollm2", "smollm2"):
        reproduce.Reproduction(reproduce.build_parser().parse_args([*flags, "--base", base]))
    with pytest.raises(InputError, match="reproduce.json: begun with --base smollm2, not gemma3-270m; choose another"):
        reproduce.Reproduction(reproduce.build_parser().parse_args([*flags, "--base", "gemma3-270m"]))


@pytest.mark.parametrize("own, precision", [(True, "bf16"), (False, "fp32")])
def test_bf16_is_trained_in_where_the_device_has_it_and_the_folder_keeps_to_it(own, precision, tmp_path, monkeypatch):
    flags = ["--size", "pretrained", "--casehold", "none", "--opinions", "none", "--output", str(tmp_path)]
    args = reproduce.build_parser().parse_args(flags)
    monkeypatch.setattr(reproduce, "has_bf16_products", lambda _: own)
    work = reproduce.Reproduction(args)
    assert work.precision == work.settings["precision"] == precision
    monkeypatch.setattr(reproduce, "has_bf16_products", lambda _: not own)
    with pytest.raises(InputError, match="reproduce.json: begun with other training; choose another"):
        reproduce.Reproduction(args)


@pytest.mark.parametrize("in_csv, mined", [("train", ("real", 9)), ("test", ("questions", 7))])
def test_mixing_keeps_every_row_whole_and_puts_propositions_last(in_csv, mined, tmp_path, monkeypatch):
    """str.splitlines would break a row at U+2028, which its JSON may hold."""
    monkeypatch.setitem(reproduce.SIZES, "cpu", TINY | {"real": 7, "mined": mined, "questions": 5})
    flags = ["--casehold", str(tmp_path / "casehold"), "--opinions", "none", "--output", str(tmp_path / "out")]
    work = reproduce.Reproduction(reproduce.build_parser().parse_args(flags))
    made = {"casehold": rows(12), "out/mined": rows(4, start=20)}
    for place, row in enumerate(made["out/mined"]):  # both may number their questions
        row["id"] = made["casehold"][place]["id"] if place else "proposition-1"
    made["casehold"][0]["context"] += "\u2028\x85."
    for folder, records in made.items():
        for split in ("train", "validation", "test"):
            lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in records)
            (tmp_path / folder).mkdir(exist_ok=True)
            (tmp_path / folder / f"{split}.jsonl").write_text(lines, encoding="utf-8")
    (tmp_path / "casehold" / f"{in_csv}.jsonl").unlink()  # the form of CaseHOLD's own files
    with (tmp_path / "casehold" / f"{in_csv}.csv").open("w", encoding="utf-8", newline="") as file:
        texts = [{"id": row["id"], "citing_prompt": row["context"], "label": row["label"]} for row in made["casehold"]]
        texts = [
            text | {f"holding_{place}": ending for place, ending in enumerate(row["endings"])}
            for text, row in zip(texts, made["casehold"], strict=True)
        ]
        writer = csv.DictWriter(file, list(texts[0]))
        writer.writeheader()
        writer.writerows(texts)
    work.set_aside()
    work.mix()

    def read(name: str, split: str = "train") -> list[dict]:
        with (tmp_path / "out" / name / f"{split}.jsonl").open(encoding="utf-8") as file:
            return [json.loads(line) for line in file]

    def ordered(found: list[dict]) -> list[dict]:
        return sorted(found, key=lambda row: row["context"])

    assert [
        question.fields["context"] for question in load_split(str(tmp_path / "out" / "casehold"), "test").questions
    ] == [row["context"] for row in made["casehold"]]
    aside = read("casehold", "validation")[12:]
    assert read("casehold", "validation")[:12] == made["casehold"] and len(aside) == 4
    assert all(row["id"].startswith("aside-") for row in aside)  # else one of validation may have its id
    aside = [row | {"id": row["id"].removeprefix("aside-")} for row in aside]
    assert ordered(read("casehold") + aside) == ordered(made["casehold"])
    assert read("real") == read("casehold")[:7] and read("questions") == read("casehold")[:5]
    joined, most = mined
    with_mined = read("with-mined")
    assert with_mined[:-2] == read(joined) and reproduction._count(tmp_path / "out" / "with-mined") == most
    load_split(str(tmp_path / "out" / "with-mined"), "train")
    own = [row | {"id": row["id"].removeprefix("mined-")} for row in with_mined[-2:]]
    assert all(row in made["out/mined"][1:] for row in own)  # the proposition is over the limit
    assert read("with-mined", "validation") == read("casehold", "validation")
    assert read("with-mined", "test") == read("casehold", "test")


@pytest.mark.parametrize(
    ("flag", "what"),
    [
        ("--casehold", "typo: no such folder; --casehold takes one with train, validation and test"),
        ("--opinions", "typo: no such file or folder; --opinions takes those with opinions"),
    ],
)
def test_a_mistyped_path_does_not_begin_the_folder(flag, what, tmp_path, data_folder):
    paths = {"--casehold": str(data_folder), "--opinions": str(data_folder), flag: "typo"}
    flags = [text for pair in paths.items() for text in pair]
    with pytest.raises(InputError, match=what):
        reproduce.main([*flags, "--output", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_a_base_is_of_a_size_that_takes_one(tmp_path, data_folder, capsys):
    flags = ["--casehold", data_folder, "--opinions", data_folder, "--base", "smollm2", "--output", tmp_path / "out"]
    with pytest.raises(SystemExit) as ended:
        reproduce.main(list(map(str, flags)))
    assert ended.value.code == 2 and "--base goes with --size pretrained" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_model_that_is_not_finished_is_gone_on_with(tmp_path, monkeypatch):
    """Its configuration is there before its record says so."""
    flags = ["--casehold", "c", "--opinions", "a", "--output", str(tmp_path)]
    work, commands = reproduce.Reproduction(reproduce.build_parser().parse_args(flags)), []
    monkeypatch.setattr(work, "script", lambda *command: commands.append(list(map(str, command))))
    record = tmp_path / "model" / "pretraining" / "run.json"
    record.parent.mkdir(parents=True)
    (tmp_path / "model" / "config.json").write_text("{}")
    for finished in ("false", "true"):
        record.write_text(f'{{"finished": {finished}}}')
        work.pretrain()
    assert commands == [["tools/pretrain_lm.py", "--resume", "--output", str(tmp_path / "model")]]


def test_a_pretrained_model_is_taken_by_name(tmp_path, monkeypatch):
    flags = ["--size", "pretrained", "--casehold", "c", "--opinions", "a", "b", "--output", str(tmp_path)]
    work, commands = reproduce.Reproduction(reproduce.build_parser().parse_args(flags)), []
    monkeypatch.setattr(work, "script", lambda *command: commands.append(list(map(str, command))))
    for stage in (work.mine, work.pretrain, work.untuned, work.grid):
        stage()
    mining, untuned, grid = commands
    assert mining[:3] == ["tools/mine_holdings.py", str(work.opinions[0]), str(work.opinions[1])]
    assert grid[grid.index("--model") + 1] == "smollm2" and grid[grid.index("--score") + 1] == "pmi"
    parsed = tools_sweep.build_parser().parse_args(grid[1:])
    # Test questions are left to the run that validation chooses.
    assert parsed.split == ["validation"]
    expected = Sweep(tmp_path / "grid", {}, score="all").predictions("untuned", "validation", "pmi")
    assert by_score(Path(untuned[untuned.index("--output") + 1]), "pmi") == expected


def test_the_untuned_model_is_shipped_under_the_prompt_of_the_run(tmp_path, monkeypatch):
    """Else C++ refuses it as the reference of a run with a template of its own."""
    args = reproduce.build_parser().parse_args(["--casehold", "c", "--opinions", "o", "--output", str(tmp_path)])
    work, commands = reproduce.Reproduction(args), []
    monkeypatch.setattr(work, "script", lambda *command: commands.append(list(map(str, command))))
    monkeypatch.setattr(work, "program", lambda *command: None)
    work.ship("template", "reward")
    untuned = [command for command in commands if command[command.index("--model") + 1] == str(work.model)]
    assert [command[0] for command in untuned] == ["eval_mc.py", "export.py", "export.py"]
    run = str(tmp_path / "variations" / "runs" / "template")
    assert all(command[command.index("--contract") + 1] == run for command in untuned)


@pytest.mark.slow
def test_every_stage_and_going_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_jsonl(tmp_path / "opinions.jsonl", opinions(40))
    for split, count in (("train", 12), ("validation", 6), ("test", 8)):
        write_jsonl(tmp_path / "casehold" / f"{split}.jsonl", rows(count, start=100 * count))
    monkeypatch.setitem(reproduce.SIZES, "cpu", TINY)
    chosen = [one for one in reproduce.VARIATIONS if one.name in (*reproduce.FROM_GRID, "mined-questions", "full")]
    monkeypatch.setattr(reproduce, "VARIATIONS", chosen)
    flags = ["--casehold", "casehold", "--opinions", "opinions.jsonl", "--output", "out"]
    with pytest.raises(KeyboardInterrupt):
        reproduce.main([*flags, "--minutes", "0.5"])
    assert not (tmp_path / "out" / "report.md").exists()
    assert reproduce.main(flags) == 0
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    grid = json.loads((tmp_path / "out" / "grid" / "report.json").read_text(encoding="utf-8"))
    assert len(grid["runs"]) == 2 * 3 + 2 + 6 and grid["settings"]["score"] == "reward"
    assert grid["questions"] == {"validation": 6 + 4}
    assert re.findall(r"^\| (tuned, .*?|untuned) \| ", text, re.MULTILINE)[-4:] == [
        "untuned",
        "tuned, PyTorch",
        "tuned, C++ fp32",
        "tuned, C++ int8",
    ]
    assert "exact McNemar" in text and "mined-questions" in text and "Marsh's claim" in text
    assert re.search(r"^\| TF-IDF \| [\d.]+% \| \d+ \| \d+ \| [\d.e-]+ \|$", text, re.MULTILINE)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.safetensors")}
    assert reproduce.main(flags) == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.safetensors")} == before
