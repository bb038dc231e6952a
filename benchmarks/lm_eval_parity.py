"""Compare eval_mc.py's log-probs with lm-evaluation-harness's `loglikelihood`, both sides in this process.

    pip install -r benchmarks/requirements.txt
    python benchmarks/lm_eval_parity.py --model .cache/random-0.5b --data ../shared/casehold --limit 20

End token off, fp32, the Hugging Face backend. Ends with 1 where a log-prob differs by more than --tolerance.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import eval_mc
from lib.cli import HelpFormatter, positive_float, positive_int
from lib.data import STRIP, load_split
from lib.errors import InputError, run_script
from lib.prompt import ending_text


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument("--model", required=True, help="model folder")
    parser.add_argument("--data", required=True, help="folder or file with questions in LexGLUE form")
    parser.add_argument("--limit", type=positive_int, default=20, help="questions")
    parser.add_argument("--tolerance", type=positive_float, default=1e-3, help="largest difference of a log-prob")
    args = parser.parse_args(argv)

    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "predictions.jsonl"
        flags = ["--model", args.model, "--data", args.data, "--limit", str(args.limit), "--no-end-token"]
        eval_mc.main([*flags, "--precision", "fp32", "--output", str(output)])
        ours = [value for line in output.read_text().splitlines() for value in json.loads(line)["logprobs"]]

    questions = load_split(args.data, "test", limit=args.limit).questions
    pairs = [
        (question.fields["context"].rstrip(STRIP), ending_text(ending))
        for question in questions
        for ending in question.endings
    ]
    harness = HFLM(pretrained=args.model, device="cpu", dtype="float32", batch_size=1)
    theirs = harness.loglikelihood([Instance("loglikelihood", {}, pair, index) for index, pair in enumerate(pairs)])
    difference = max(abs(mine - other) for mine, (other, _) in zip(ours, theirs, strict=True))
    print(f"{len(questions)} questions, {len(ours)} log-probs from {min(ours):.1f} to {max(ours):.1f}")
    print(f"largest difference from lm-evaluation-harness: {difference:.2e}")
    if difference > args.tolerance:
        raise InputError(f"log-probs differ by {difference:.2e}, more than {args.tolerance:g}")
    return 0


if __name__ == "__main__":
    run_script(main)
