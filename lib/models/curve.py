"""Figures of a run."""

from collections.abc import Sequence
from pathlib import Path

from lib.paths import atomic_file


def plot_run(metrics: Sequence[dict], path: Path) -> None:
    """Loss, and training accuracy (as far as the objective defines one) with validation accuracy, over the steps of
    `metrics.jsonl`, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    steps = [line for line in metrics if "loss" in line]
    validation = [line for line in metrics if "validation_accuracy" in line]
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(7, 6), sharex=True)
    window = max(1, len(steps) // 50)
    x = [line["step"] for line in steps]
    for axis, key in ((top, "loss"), (bottom, "reward_accuracy"), (bottom, "logprob_accuracy")):
        if key not in steps[0]:
            continue
        values = [line[key] for line in steps]
        axis.plot(x, values, alpha=0.25, color="C0")
        label = f"{key.replace('_', ' ')}, mean of {window} steps"
        axis.plot(x, running_mean(values, window), color="C0", label=label)
    if validation:
        bottom.plot(
            [line["step"] for line in validation],
            [line["validation_accuracy"] for line in validation],
            "o-",
            color="C1",
            label="validation accuracy, by its best score",
        )
    bottom.set_ylim(0, 1.02)
    bottom.set_xlabel("step")
    for axis in (top, bottom):
        axis.grid(alpha=0.3)
        axis.legend()
    figure.tight_layout()
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
    plt.close(figure)


def plot_pretraining(metrics: Sequence[dict], path: Path) -> None:
    """Loss of the steps and of the held-out rows of `metrics.jsonl`, in nats a token, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    steps = [line for line in metrics if "loss" in line]
    held_out = [line for line in metrics if "held_out_loss" in line]
    figure, axis = plt.subplots(figsize=(7, 4))
    axis.plot([line["step"] for line in steps], [line["loss"] for line in steps], alpha=0.5, label="training")
    axis.plot([line["step"] for line in held_out], [line["held_out_loss"] for line in held_out], "o-", label="held out")
    axis.set_xlabel("step")
    axis.set_ylabel("loss, nats a token")
    axis.grid(alpha=0.3)
    axis.legend()
    figure.tight_layout()
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
    plt.close(figure)


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """The mean of each value and the up to `window` - 1 before it."""
    means, total = [], 0.0
    for index, value in enumerate(values):
        total += value - (values[index - window] if index >= window else 0.0)
        means.append(total / min(index + 1, window))
    return means
