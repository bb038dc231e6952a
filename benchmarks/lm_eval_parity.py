"""Compare eval_mc.py's sum and bytes with lm-evaluation-harness, its mean with unpacked forwards, all in this process.

    pip install -r benchmarks/requirements.txt
    python benchmarks/lm_eval_parity.py --model .cache/random-0.5b --data ../shared/casehold --limit 20

End token off and no question cut, as the harness has it; fp32, its Hugging Face backend. Ends with 1 where a value
differs by more than --tolerance.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import eval_mc
from lib.cli import HelpFormatter, positive_float, positive_int
from lib.errors import InputError, run_script
from lib.evaluation.scores import score_values
from lib.packed.selfcheck import unpacked_logprobs
from lib.questions.data import STRIP, Question, load_split
from lib.questions.prompt import encode_questions, ending_text
from lib.questions.prompt_config import PromptConfig
from lib.questions.readers import read_rows

PROMPT = PromptConfig("{context}", max_length=4096, end_token=False)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--model", required=True, help="model folder")
    parser.add_argument("--data", required=True, help="folder or file with questions in LexGLUE form")
    parser.add_argument("--limit", type=positive_int, default=20, help="questions")
    parser.add_argument("--tolerance", type=positive_float, default=1e-3, help="largest difference of a log-prob")
    args = parser.parse_args(argv)
    try:
        from lm_eval.api.instance import Instance
        from lm_eval.models.huggingface import HFLM
    except ModuleNotFoundError as error:
        raise InputError(f"{error.name} is not installed: pip install -r benchmarks/requirements.txt") from error

    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "predictions.jsonl"
        for file in Path(args.model).iterdir():
            (Path(folder) / file.name).symlink_to(file.resolve())
        PROMPT.save(Path(folder))
        flags = ["--model", folder, "--data", args.data, "--limit", str(args.limit)]
        eval_mc.main([*flags, "--precision", "fp32", "--score", "all", "--output", str(output)])
        ours = {score: read_values(output.with_suffix(f".{score}.jsonl")) for score in ("sum", "bytes", "mean")}

    questions = load_split(args.data, "test", limit=args.limit).questions
    pairs = [
        (question.fields["context"].rstrip(STRIP), ending_text(ending))
        for question in questions
        for ending in question.endings
    ]
    harness = HFLM(pretrained=args.model, device="cpu", dtype="float32", batch_size=1)
    answers = harness.loglikelihood([Instance("loglikelihood", {}, pair, index) for index, pair in enumerate(pairs)])
    sums = [logprob for logprob, _ in answers]
    # Its acc_bytes: log-likelihoods over the bytes of the choices, as it is given them but for the space before them.
    sizes = [len(continuation[1:].encode()) for _, continuation in pairs]
    theirs = {"sum": sums, "bytes": [value / size for value, size in zip(sums, sizes, strict=True)]}
    theirs["mean"] = unpacked_means(harness.model, harness.tokenizer, questions)
    print(f"{len(questions)} questions, {len(sums)} log-probs from {min(sums):.1f} to {max(sums):.1f}")
    differences = {}
    for score, values in ours.items():
        differences[score] = max(abs(mine - other) for mine, other in zip(values, theirs[score], strict=True))
        what = "an unpacked forward" if score == "mean" else "lm-evaluation-harness"
        print(f"{score}: largest difference from {what}: {differences[score]:.2e}")
    if not max(differences.values()) <= args.tolerance:
        raise InputError(f"a score differs by more than {args.tolerance:g}")
    return 0


def read_values(path: Path) -> list[float]:
    """The score of every candidate of every question, one after the other."""
    return [value for _, record in read_rows(path) for value in score_values(record)]


@torch.inference_mode()
def unpacked_means(model: torch.nn.Module, tokenizer, questions: Sequence[Question]) -> list[float]:
    """Mean log-prob a token of every ending, each in a forward of its own."""
    return [
        value / len(ids)
        for item in encode_questions(questions, tokenizer, PROMPT)
        for value, ids in zip(unpacked_logprobs(model, item, "cpu").tolist(), item.ending_ids, strict=True)
    ]


if __name__ == "__main__":
    run_script(main)
