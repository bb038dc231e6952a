"""What the tests share: questions, a small tokenizer in Qwen2's form, and tiny models with weights large enough that a
wrong position or a leaking branch shows in every log-prob."""

import contextlib
import gc
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import torch
from accelerate.state import AcceleratorState
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2TokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
CASEHOLD = Path(os.environ.get("CASEHOLD_DIR", ROOT.parent / "shared" / "casehold"))
SCORE = ROOT / "cpp_scorer" / "score"
QWEN2_TOKENIZER = ROOT.parent / "shared" / "qwen2_tokenizer"
from lib.errors import run_script  # noqa: E402
from lib.pretraining.language_model import train_tokenizer  # noqa: E402

VOCAB_SIZE = 400
SUBJECTS = ("the tenant", "the carrier", "a minor", "the surety", "an agent", "the insurer", "a trustee", "the buyer")
VERBS = ("may rescind", "must give notice of", "is bound by", "cannot assign", "waives", "takes free of")
OBJECTS = ("the lease", "a forged deed", "the arbitration clause", "an unsigned contract", "the lien", "the warranty")

needs_casehold = pytest.mark.skipif(
    not (CASEHOLD.is_dir() and QWEN2_TOKENIZER.is_dir()),
    reason="real CaseHOLD rows and the Qwen2 tokenizer are not here (../shared, or CASEHOLD_DIR)",
)
BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
BROWSER = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
needs_browser = pytest.mark.skipif(
    BROWSER is None, reason="no Chromium here: apt-get install chromium-headless-shell, or name one with CHROMIUM"
)


def pytest_configure():
    """What a shell's background job or nohup ignores, the programs under test would, too."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_finish():
    """Training collects garbage after each run: it need not walk through all that was imported every time."""
    gc.collect()
    gc.freeze()


def rows(count: int, num_candidates: int = 5, start: int = 0) -> list[dict]:
    """LexGLUE rows whose candidates have different lengths; the gold's subject and object stand in the passage."""
    made = []
    for number in range(start, start + count):
        texts = [
            f"holding that {SUBJECTS[(number + k) % 8]} {VERBS[(number // 8 + k) % 6]} {OBJECTS[(number // 3 + k) % 6]}"
            + " in equity" * (k % 3)
            for k in range(num_candidates)
        ]
        label = (number * 7) % num_candidates
        subject, verb = SUBJECTS[(number + label) % 8], VERBS[(number // 8 + label) % 6]
        context = f"In case {number} we ask whether {subject} {verb} it. See Doe v. Roe, {number} U.S. 1 (<HOLDING>)."
        made.append({"id": f"q{number}", "context": context, "endings": texts, "label": label})
    return made


def opinions(count: int) -> list[dict]:
    """Made-up opinions of three citations each, whose holdings and words all differ."""
    generator = random.Random(0)
    made = []
    for number in range(count):
        text = ""
        for part in range(3):
            subject, verb, matter = generator.choice(SUBJECTS), generator.choice(VERBS), generator.choice(OBJECTS)
            said = " ".join("".join(generator.choices("abcdefgh", k=6)) for _ in range(60))
            text += f"{said} See Doe v. Roe, {number + 1} F.3d {part + 1} (1993) (holding in matter "
            text += f"{generator.randint(1000, 9999)} that {subject} {verb} {matter}). We go on from there.\n"
        made.append({"text": text})
    return made


def write_jsonl(path: Path, records: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tokenizer() -> Qwen2TokenizerFast:
    return train_tokenizer([text for row in rows(64) for text in (row["context"], *row["endings"])], VOCAB_SIZE)


@pytest.fixture(scope="session")
def qwen2() -> Qwen2TokenizerFast:
    from lib.models.loading import load_tokenizer

    return load_tokenizer(str(QWEN2_TOKENIZER))


def tiny_model(family: str = "qwen2", vocab_size: int = VOCAB_SIZE, **changes):
    """A random two-layer causal LM in fp32."""
    config_class, model_class = {
        "qwen2": (Qwen2Config, Qwen2ForCausalLM),
        "llama": (LlamaConfig, LlamaForCausalLM),
        "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    }[family]
    settings = dict(
        vocab_size=vocab_size,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=None,
    )
    if family == "qwen3":
        settings["head_dim"] = 16
    torch.manual_seed(0)
    return model_class(config_class(**settings | changes)).eval()


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory, tokenizer) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tiny_model().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_jsonl(folder / "train.jsonl", rows(13))
    write_jsonl(folder / "validation.jsonl", rows(6, start=100))
    write_jsonl(folder / "test.jsonl", rows(8, start=200))
    return folder


@pytest.fixture
def encode(tokenizer, tmp_path):
    """Rows to encoded questions, by way of a file."""
    from lib.questions.data import load_split
    from lib.questions.prompt import encode_questions
    from lib.questions.prompt_config import PromptConfig

    def encode_rows(records: list[dict], **config):
        data = load_split(str(write_jsonl(tmp_path / "rows.jsonl", records)), "test")
        config.setdefault("template", data.default_template)
        return encode_questions(data.questions, tokenizer, PromptConfig(**config))

    return encode_rows


@pytest.fixture(scope="session")
def export(tmp_path_factory, data_folder):
    """A model folder to an ONNX file, as where optimum is not installed."""
    import export as export_script

    def export_model(model: Path) -> Path:
        path = tmp_path_factory.mktemp("onnx") / "model.onnx"
        flags = ["--model", model, "--output", path, "--data", data_folder, "--limit", "2"]
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sys.modules, "optimum", None)
            patch.setitem(sys.modules, "optimum.onnxruntime", None)
            export_script.main([*map(str, flags)])
        return path

    return export_model


@pytest.fixture(scope="session")
def onnx_model(export, model_folder) -> Path:
    return export(model_folder)


@contextmanager
def precision_of_its_own() -> Iterator[None]:
    """accelerate keeps the precision of a process, as one command has one: within this it may be another."""
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        yield
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


def build_scorer(*flags: str) -> None:
    subprocess.run([ROOT / "tools" / "build_scorer.sh", *flags], check=True, stdout=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright  # half a second, which few tests need

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def scorer() -> Path:
    build_scorer("-DBUILD_TESTING=ON", "-DCMAKE_COMPILE_WARNING_AS_ERROR=ON")
    return SCORE


def run_main(main: Callable, *arguments) -> subprocess.CompletedProcess:
    """What a script's `main` ends with and says, in this process: its start costs seconds."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as left:
        run_script(lambda: main([*map(str, arguments)]))
    return subprocess.CompletedProcess(arguments, left.value.code, out.getvalue(), err.getvalue())


def run_python(*arguments, cwd: Path, check: bool = True, **environment) -> subprocess.CompletedProcess:
    """Run a script of the project as its user would, in a process of its own."""
    result = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"HF_HUB_OFFLINE": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    if check and result.returncode:
        raise AssertionError(f"{arguments} ended with {result.returncode}:\n{result.stdout}\n{result.stderr}")
    return result


def has_work(raylet: int) -> bool:
    """Whether a worker of the node runs a task now: Ray names its processes by what they do."""
    titles = (" ".join(child.cmdline()) for child in psutil.Process(raylet).children())
    return any(title.startswith("ray::") and "IDLE" not in title for title in titles)


@dataclass
class Nodes:
    """A Ray cluster of three nodes of one CPU each, all on this machine."""

    address: str
    raylets: list[int]  # process numbers; the first node's, which the others depend on, is not among them

    def lose_one_when(self, condition: Callable[[], bool]) -> threading.Thread:
        """In the background: as soon as the condition holds, a node that has work."""

        def wait() -> None:
            while not (condition() and (busy := [raylet for raylet in self.raylets if has_work(raylet)])):
                time.sleep(0.01)
            os.kill(busy[0], signal.SIGKILL)

        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        return thread


@pytest.fixture
def three_nodes() -> Iterator[Nodes]:
    pytest.importorskip("ray", reason="Ray, an optional library, is not installed (tests/requirements.txt)")
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 200 << 20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    others = [cluster.add_node(**node) for _ in range(2)]
    cluster.wait_for_nodes()
    yield Nodes(cluster.address, [other.all_processes["raylet"][0].process.pid for other in others])
    cluster.shutdown()
