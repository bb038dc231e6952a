"""What `tools/reproduce.py` does at each size, and what it tries to raise accuracy with."""

from lib.experiments.layout import UNTUNED
from lib.experiments.variations import RECIPE, Variation

SEED = 0
# Losses that are another one where a question has one right ending: S-DPO with 1 negative, and dpo-pairs.
TWINS = ("dpo", "dpo-best")
NUM_NEG = 4
# The sizes differ in these flags alone. pretrain: None where a pretrained model is taken; aside: training questions
# that join the validation split, which alone tells little apart; questions: of a run of the grid, whose accuracies are
# by `score`; real: CaseHOLD's at most in `real-questions`, None for every one; mined: the split that mined ones join in
# `mined-questions`, and how many both have at most; full: the learning rate of full fine-tuning; left_out: variations
# that there is no time for. bf16 in `train` is fp32 where the device has no products in it.
SIZES = {
    "cpu": {
        "aside": 400,
        "real": None,
        "mined": ("real", 10_000),
        "pretrain": ["--params", "5m", "--batch-size", "4", "--minutes", "25", "--compile"],
        "train": {"batch_size": 8, "learning_rate": 3e-3, "epochs": 1},
        "questions": 1000,
        "score": "reward",
        "full": 3e-4,
        "left_out": (),
        "jobs": 2,
    },
    "gpu": {
        "aside": 400,
        "real": None,
        "mined": ("real", 20_000),
        "pretrain": ["--params", "40m", "--batch-size", "32", "--minutes", "6"],
        "train": {"batch_size": 8, "learning_rate": 5e-4, "epochs": 3},
        "questions": 2500,
        "score": "reward",
        "full": 3e-4,
        "left_out": (),
        "jobs": 4,
    },
    "pretrained": {
        "aside": 100,
        "real": 1_000,
        "mined": ("questions", 200),
        "pretrain": None,
        "train": {"batch_size": 4, "learning_rate": 5e-4, "epochs": 1, "lora_r": 16, "precision": "bf16"},
        "questions": 100,
        "score": "pmi",
        "full": 3e-5,
        "left_out": ("epochs-2", "hard-2-of-4", "beta-0.5"),
        "jobs": 2,
    },
}
# Stand for the folders with more real questions, and with mined ones, and for the size's `full`.
REAL, MINED, FULL = "REAL", "MINED", "FULL"
# The longest is the first that is trained, so that those at a time end together.
VARIATIONS = (
    Variation(RECIPE, ()),
    Variation("listwise", ("--loss", "listwise")),
    Variation("mined-questions", ("--data", MINED)),
    Variation("real-questions", ("--data", REAL)),
    Variation("full", ("--lora-r", "0", "--learning-rate", FULL)),
    Variation("epochs-2", ("--epochs", "2")),
    Variation("hard-2-of-4", ("--num-neg", "2", "--negatives", "hard")),
    Variation("beta-0.5", ("--beta", "0.5")),
)
# Variations that are runs of the grid, and made there.
FROM_GRID = {
    UNTUNED: UNTUNED,
    RECIPE: f"sdpo-neg{NUM_NEG}-beta0.1-seed{SEED}",
    "listwise": f"listwise-neg{NUM_NEG}-seed{SEED}",
}
