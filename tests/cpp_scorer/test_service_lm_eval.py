"""lm-evaluation-harness asks the service by its own client, and gets what eval_mc.py says of the same export."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest
from conftest import CASEHOLD, ROOT, needs_casehold, run_python, tiny_model, write_jsonl
from service import serving

from lib.evaluation.scores import choose
from lib.questions.prompt_config import PromptConfig
from lib.questions.readers import read_rows

# The harness is none of requirements.txt; LM_EVAL names the Python of an environment that has it.
PYTHON = os.environ.get("LM_EVAL") or (sys.executable if importlib.util.find_spec("lm_eval") else None)
QUESTIONS = int(os.environ.get("LM_EVAL_QUESTIONS", "20"))
TOLERANCE = 1e-3

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("scorer"),
    needs_casehold,
    pytest.mark.skipif(
        PYTHON is None, reason="no lm_eval: pip install -r benchmarks/requirements.txt, or name a Python in LM_EVAL"
    ),
]


def test_local_completions_gets_the_log_probs_of_eval_mc(qwen2, tmp_path, export):
    folder = tmp_path / "model"
    tiny_model(vocab_size=len(qwen2), max_position_embeddings=4096).save_pretrained(folder)
    qwen2.save_pretrained(folder)
    # As the harness has it: endings are not closed, and no question is cut.
    PromptConfig("{context}", max_length=4096, end_token=False).save(folder)
    model = export(folder)
    rows = [row for _, row in zip(range(QUESTIONS), read_rows(CASEHOLD / "test.jsonl"), strict=False)]
    write_jsonl(tmp_path / "casehold" / "test.jsonl", [row for _, row in rows])
    run_python(
        ROOT / "eval_mc.py", "--model", model, "--data", tmp_path / "casehold" / "test.jsonl", "--output", "ours.jsonl",
        cwd=tmp_path,
    )  # fmt: skip
    ours = [record for _, record in read_rows(tmp_path / "ours.jsonl")]
    with serving(model, tmp_path, "--max-body-bytes", 1 << 24) as service:
        url = f"http://127.0.0.1:{service.port}/v1/completions"
        arguments = f"model=score,base_url={url},tokenizer={folder},tokenizer_backend=huggingface,max_length=4096"
        command = [PYTHON, "-m", "lm_eval", "--model", "local-completions", "--tasks", "casehold"]
        command += ["--model_args", f"{arguments},num_concurrent=4", "--batch_size", "5", "--log_samples"]
        command += ["--include_path", ROOT / "docs" / "lm_eval", "--output_path", tmp_path / "theirs"]
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(tmp_path / "cache")}
        result = subprocess.run(
            [*map(str, command)], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=1800
        )
        assert result.returncode == 0, result.stderr[-4000:]
    (samples,) = (tmp_path / "theirs").rglob("samples_casehold_*.jsonl")
    theirs = sorted(map(json.loads, samples.read_text().splitlines()), key=lambda sample: sample["doc_id"])
    assert len(theirs) == len(ours) == QUESTIONS
    for sample, record in zip(theirs, ours, strict=True):
        values = [float(response[0][0]) for response in sample["resps"]]
        assert values == pytest.approx(record["logprobs"], abs=TOLERANCE)
        assert choose(values) == record["prediction"]
