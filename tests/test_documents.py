"""What README, CONTRIBUTING and docs/ say holds: every command runs, and whatever path, link, flag, value of a flag or
make target they name is there."""

import contextlib
import io
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, opinions, write_jsonl

from lib.questions.data import load_split

# In the order in which a reader meets them: a page's commands may use what those of an earlier one made.
PAGES = ("README.md", "CONTRIBUTING.md", "docs/train.md", "docs/evaluate.md", "docs/deploy.md", "docs/serve.md")
PAGES += ("docs/data.md", "docs/scale.md", "docs/experiments.md", "docs/performance.md", "docs/features.md")
TEXTS = {page: (ROOT / page).read_text(encoding="utf-8") for page in PAGES}
ALL_TEXT = "\n".join(TEXTS.values())
LONGEST = {"README.md": 150, "CONTRIBUTING.md": 40}  # lines

SCRIPTS = ("train_sdpo.py", "eval_mc.py", "export.py", *sorted((ROOT / "tools").glob("*.py")))
# torchrun's, cmake's, pip's, and lm-evaluation-harness's
OTHERS_FLAGS = {"--nproc_per_node", "--install", "--prefix", "--no-deps", "--tasks", "--include_path", "--batch_size"}
OTHERS_FLAGS |= {"--model_args", "--data-binary", "--logdir", "--local-dir"}  # and curl's, TensorBoard's, the hub's
OTHERS_FLAGS |= {"--outtype", "--outfile", "--nnodes", "--rdzv_backend", "--rdzv_endpoint"}  # llama.cpp's, torchrun's
# CONTRIBUTING's example of a loss to add, and the sizes of the benchmarks' models.
OTHERS_VALUES = {("--loss", "ipo"), *(("--size", size) for size in ("0.01b", "0.5b", "7b"))}
BUILT = {"cpp_scorer/score", "cpp_scorer/build", "cpp_scorer/build/library/libscore.so"}
# These need a model hub. Without one they end within seconds, with one line that says what to do instead.
NEED_A_HUB = {"python train_sdpo.py --num-neg 4", "python eval_mc.py --split test"}
NEED_A_HUB |= {"python eval_mc.py --split test --model demo --data lexglue/scotus"}
RUN_THIS = {"make test"}  # this very suite
# test_sweep.py runs a smaller grid, which takes 11 minutes whole; test_reproduce.py all stages, and test_benchmarks.py
# all benchmarks, which take two hours each.
# The service's commands, which end by a signal, are asked by its own tests; test_judge.py has a server to ask.
TESTED_ELSEWHERE = {"make sweep-demo", "make reproduce", "make bench", "make bench-gpu"}
TESTED_ELSEWHERE |= {"./cpp_scorer/score --serve 127.0.0.1:8080 --model model.onnx"}
TESTED_ELSEWHERE |= {
    "python tools/judge.py --endpoint http://127.0.0.1:8000/v1 --judge NAME --data demo --answers predictions.jsonl "
    "--output runs/judged"
}
TESTED_ELSEWHERE |= {"curl --data-binary @questions.jsonl 127.0.0.1:8080/v1/score"}


def commands() -> list[str]:
    """The command lines of the documents' sh blocks, without their comments; those of the scorer last, since they use
    what the others make."""
    blocks = re.findall(r"```sh\n(.*?)```", ALL_TEXT, re.DOTALL)
    lines = [line.split("  #")[0] for block in blocks for line in re.sub(r"\\\n\s*", "", block).splitlines()]
    return sorted(dict.fromkeys(map(str.strip, lines)), key=lambda line: line.startswith("./"))


def code(text: str) -> list[str]:
    """The commands and the `spans` of a text, one line each."""
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]
    return [line for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) for line in block.splitlines()] + spans


def headings(text: str) -> set[str]:
    """The anchors that a page's headings have on GitHub."""
    titles = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\s-]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.fixture(scope="session")
def helps(scorer) -> str:
    """What --help prints: of every script, and of the C++ scorer."""
    texts = [subprocess.run([scorer, "--help"], capture_output=True, text=True, check=True).stdout]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "1000")  # nothing is wrapped
        for script in SCRIPTS:
            printed = io.StringIO()
            main = runpy.run_path(str(ROOT / script))["main"]
            with contextlib.redirect_stdout(printed), pytest.raises(SystemExit) as ended:
                main(["--help"])
            assert ended.value.code == 0
            texts.append(printed.getvalue())
    return "\n".join(texts)


@pytest.fixture(scope="session")
def choices(helps) -> dict[str, set[str]]:
    """The values of every flag that takes one of a few: `--flag {a,b}` in Python's help, `--flag a|b` in C++'s."""
    found: dict[str, set[str]] = {}
    for flag, python, cpp in re.findall(r"(--[a-z][a-z-]+) (?:\{([^}\s]+)\}|([a-z]+(?:\|[a-z]+)+))", helps):
        found.setdefault(flag, set()).update(python.split(",") if python else cpp.split("|"))
    return found


def test_every_flag_exists(helps):
    peers = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "benchmarks").glob("*.py"))
    there = set(re.findall(r"--[a-z][a-z_-]+", helps)) | set(re.findall(r'"(--[a-z][a-z-]+)"', peers))
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z_-]+", ALL_TEXT)) - OTHERS_FLAGS
    assert len(named) > 40
    assert named - there == set()


def test_every_example_of_help_has_flags_that_exist(helps):
    examples = re.findall(r"^  e\.g\. (.*)$", helps, re.MULTILINE)
    there = set(re.findall(r"^  (--[a-z][a-z-]+)", helps, re.MULTILINE))
    assert len(examples) > 15
    assert {flag for line in examples for flag in re.findall(r"--[a-z][a-z-]+", line)} - there == set()


def test_every_value_of_a_flag_exists(choices):
    pairs = {pair for line in code(ALL_TEXT) for pair in re.findall(r"(--[a-z-]+) ([a-z0-9][\w.-]*)", line)}
    named = {(flag, value) for flag, value in pairs - OTHERS_VALUES if flag in choices}
    assert len(named) > 10
    assert {(flag, value) for flag, value in named if value not in choices[flag]} == set()


def test_a_table_of_a_flag_has_all_its_values(choices):
    tables = re.findall(r"^\| `(--[a-z-]+)` \|.*\n\|[-| ]+\n((?:\|.*\n)+)", ALL_TEXT, re.MULTILINE)
    assert {flag for flag, _ in tables} >= {"--loss", "--negatives", "--score"}
    for flag, table in tables:
        first = [row.split(" | ")[0] for row in table.splitlines()]
        assert {name for cell in first for name in re.findall(r"`(.*?)`", cell)} == choices[flag], flag


def test_every_path_exists():
    names = {word.removeprefix("./").rstrip(":,") for line in code(ALL_TEXT) for word in line.split()}
    paths = {name for name in names if re.match(r"(lib|tests|tools|benchmarks|cpp_scorer|docs)/", name)}
    files = {name for name in names - paths if re.fullmatch(r"[\w-]+\.(py|cpp|sh|toml)|requirements\.txt", name)}
    assert len(paths) > 20 and len(files) > 5
    assert [path for path in sorted(paths - BUILT) if not (ROOT / path).exists()] == []
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert files - {Path(path).name for path in tracked.splitlines()} == set()


def test_the_names_that_the_readme_sends_a_reader_to_are_in_their_files():
    rows = re.findall(r"^\| `([\w/]+\.(?:py|cpp))` \| .* \| (.*) \|$", TEXTS["README.md"], re.MULTILINE)
    assert len(rows) == 5
    for path, names in rows:
        source = (ROOT / path).read_text(encoding="utf-8")
        for name in re.findall(r"`(.*?)`", names):
            assert re.search(rf"^ *(def |class |Totals )?{name}\b", source, re.MULTILINE), (path, name)


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", TEXTS[page]):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), target
        assert not anchor or anchor in headings(file.read_text(encoding="utf-8")), target


def test_the_readme_links_every_page():
    pages = {str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md")}
    assert pages | {"README.md", "CONTRIBUTING.md"} == set(PAGES)
    links = re.split("^## Links$", TEXTS["README.md"], flags=re.MULTILINE)[1]
    assert {page for page in PAGES[1:] if f"]({page})" not in links} == set()


def test_every_make_target_and_variable_exists():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    lines = code(ALL_TEXT)
    targets = {name for line in lines for name in re.findall(r"^make ([a-z-]+)", line)}
    variables = {name for line in lines for name in re.findall(r"\b([A-Z]+)=", line)}
    assert targets >= {"demo", "test"} and variables >= {"CASEHOLD", "SIZE"}
    assert targets - set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE)) == set()
    assert variables - set(re.findall(r"\$\(([A-Z]+)\)", makefile)) == set()


@pytest.mark.parametrize("page", PAGES)
def test_a_paper_is_called_by_its_name(page):
    """Three papers stand behind S-DPO here, and TRL's SDPO is another method."""
    assert re.findall(r".*\b(?:the|this|S-DPO's|S-DPO) paper\b.*", TEXTS[page], re.IGNORECASE) == []


@pytest.mark.parametrize("page", LONGEST)
def test_the_first_pages_stay_short(page):
    assert len(TEXTS[page].splitlines()) <= LONGEST[page]


def test_what_is_not_run_here_is_still_documented():
    assert (NEED_A_HUB | RUN_THIS | TESTED_ELSEWHERE) - set(commands()) == set()


@pytest.mark.slow
def test_every_command_runs(tmp_path):
    # A clone, so that what the commands write replaces nothing; what they would fetch or make first is shared.
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
    for folder in (".venv", ".cache", ".deps"):
        if (ROOT / folder).exists():
            (clone / folder).symlink_to(ROOT / folder)
    questions = load_split("demo", "test", limit=3)
    stdin = "".join(Path(questions.source).read_text(encoding="utf-8").splitlines(keepends=True)[:3])
    (clone / "questions.jsonl").write_text(stdin, encoding="utf-8")
    write_jsonl(clone / "opinions" / "opinions.jsonl", opinions(30))
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "HF_HUB_OFFLINE": "1"}
    for command in commands():
        if command in RUN_THIS | TESTED_ELSEWHERE:
            continue
        result = subprocess.run(
            command, shell=True, cwd=clone, env=environment, input=stdin, capture_output=True, text=True, timeout=900
        )
        if command in NEED_A_HUB:
            assert result.returncode == 1, command
            assert result.stderr.strip().splitlines()[-1].startswith("error: "), result.stderr
        else:
            assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
        if command == "./cpp_scorer/score --model model.onnx":
            assert len(result.stdout.splitlines()) == 3
