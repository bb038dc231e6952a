"""What a run tells while it trains: the progress bar, the lines above it, `metrics.jsonl`, and the tracker's record of
the same numbers; and what it says at its end."""

from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote

from accelerate import Accelerator

from lib.models.device import peak_memory_gb
from lib.models.runs import MetricsLog
from lib.progress import progress
from lib.training.trackers import log_line

SHOWN = ("loss", "reward_accuracy", "logprob_accuracy", "margin")  # behind the bar


class Journal:
    """Every process calls it, the main one alone writes."""

    def __init__(self, run: Path, accelerator: Accelerator, num_steps: int, *, step: int, metrics_bytes: int):
        """Go on at `step`, after the first `metrics_bytes` bytes of the metrics."""
        self.accelerator, self.is_main = accelerator, accelerator.is_main_process
        self.log = MetricsLog(run, metrics_bytes) if self.is_main else None
        self.bar = progress(total=num_steps, initial=step, unit="step", disable=not self.is_main)

    def step(self, step: int, epoch: int, means: Mapping[str, float], **others: float) -> None:
        """The step's `means`, in the metrics with `others`; those of step 0 in a line too, where nothing is learnt
        yet."""
        if not self.is_main:
            return
        memory = peak_memory_gb(self.accelerator.device)
        self._write(step=step, epoch=epoch, **means, **others, peak_memory_gb=memory)
        if step == 0:
            rewards = f", rewards {means['reward_chosen']:.4f}" if "reward_chosen" in means else ""
            self.bar.write(f"step 0: loss {means['loss']:.4f}{rewards} (nothing is learnt yet)")
        shown = {name.replace("_", " "): f"{means[name]:.3f}" for name in SHOWN if name in means}
        self.bar.set_postfix(shown, refresh=False)
        self.bar.update()

    def validation(self, step: int, epoch: int, accuracies: Mapping[str, float], num_questions: int) -> None:
        """accuracies: by score, the best one first."""
        if self.is_main:
            best, *others = accuracies
            self._write(
                step=step,
                epoch=epoch,
                validation_score=best,
                validation_accuracy=accuracies[best],
                **{f"validation_accuracy_{score}": value for score, value in accuracies.items()},
            )
            rest = ", ".join(f"{name} {accuracies[name]:.1%}" for name in others)
            said = f"validation accuracy {accuracies[best]:.1%} by {best} ({rest}; {num_questions} questions)"
            self.bar.write(f"epoch {epoch + 1}: {said}")

    def _write(self, **line: float | str) -> None:
        self.log.write(**line)
        log_line(self.accelerator, line)

    @property
    def metrics_bytes(self) -> int:
        """Bytes of the metrics, safely on disk."""
        return self.log.size if self.is_main else 0

    def close(self) -> None:
        self.bar.close()


def what_next(settings: Namespace, folder: Path, metrics: Sequence[Mapping]) -> str:
    """What the finished run in `folder` leaves, whether an earlier epoch was better, and the command that tests it by
    the score that validation prefers."""
    lines = [f"{folder}: {'adapter' if settings.lora_r else 'model'}, metrics.jsonl and curve.png"]
    data = "" if settings.data == "casehold" else f" --data {quote(settings.data)}"
    data += f" --candidates {quote(settings.candidates)}" if settings.candidates else ""
    validations = [line for line in metrics if "validation_accuracy" in line]
    if validations:
        score = validations[-1].get("validation_score", "sum")  # before there were others it was the sum
        by_epoch = [line.get(f"validation_accuracy_{score}", line["validation_accuracy"]) for line in validations]
        best = by_epoch.index(max(by_epoch)) + 1
        if best < len(by_epoch):
            better = f"note: by {score} validation was best after epoch {best}"
            lines.append(f"{better}; --epochs {best} has a schedule of its own")
        data += f" --score {score}"
    lines.append(f"next: python eval_mc.py --split test --model {quote(str(folder))}{data}")
    return "\n".join(lines)
