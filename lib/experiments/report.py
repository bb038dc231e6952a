"""`report.md` of a sweep: the tables of Marsh and of SWEPO, from the numbers that `results.collect` read."""

from collections.abc import Iterable, Sequence

from lib.experiments.layout import UNTUNED
from lib.training.losses import LOSSES

IDENTITY = ("base_sha256", "libraries")  # of the settings in a report, those that are no flags

NOTES = f"""Accuracies are means over the seeds. In brackets stands the 95 % Wilson interval of the mean for so many
questions; seeds answer the same questions, so they make it no narrower. "sd" is the standard deviation over seeds, in
points; a seed sets the adapter's first weights, dropout, the order of the questions and the draw of negatives. Losses
are means over the steps of an epoch, then over seeds. "{UNTUNED}" is the model that every run starts from."""

CURVES = """## Learning curves

A panel for each loss and number of negatives K, a line for each seed.

![learning curves](curves.png)"""


def sweep_report(report: dict, figures: Sequence[str]) -> str:
    """The report as text; `figures` are the file names of those that were drawn."""
    sections = [_heading(report), _negatives(report, figures), _losses(report), _draws(report)]
    sections += [_responses(figures), CURVES, _examples(report)]
    return "\n\n".join(section for section in sections if section) + "\n"


def untuned_title(report: dict) -> str:
    """The untuned model, and by what it chooses where that differs from the runs."""
    return f"{UNTUNED}, by sum" if report["settings"]["score"] == "reward" else UNTUNED


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _heading(report: dict) -> str:
    settings, questions = report["settings"], report["questions"]
    shared = ", ".join(f"{name.replace('_', ' ')} {settings[name]}" for name in settings if name not in IDENTITY)
    versions = ", ".join(f"{name} {version}" for name, version in settings["libraries"].items())
    values = report["baselines"]
    base = [[name, *(f"{values[split][name]:.1%}" for split in questions)] for name in values[report["measured"]]]
    base.append([untuned_title(report), *(accuracy_cell(report[UNTUNED][split]) for split in questions)])
    head = ["without training", *(f"{split} ({count} questions)" for split, count in questions.items())]
    return "\n\n".join(
        [
            "# Sweep",
            f"{len(report['runs'])} runs. Every run: {shared}. {versions}.",
            NOTES,
            table(head, base),
        ]
    )


def _negatives(report: dict, figures: Sequence[str]) -> str:
    variants = [variant for variant in report["variants"] if variant["loss"] == "sdpo"]
    if not variants:
        return ""
    parts = [
        "## Number of negatives (Table 3 and Figure 2 of Marsh)",
        "K negatives begin at a loss of ln(K + 1), so losses of different K do not compare; accuracies do.",
        _variants_table(report, sorted(variants, key=lambda variant: variant["num_neg"])),
    ]
    if "negatives.png" in figures:
        parts.append("![loss and accuracy over the number of negatives](negatives.png)")
    return "\n\n".join(parts)


def _losses(report: dict) -> str:
    most = max(variant["num_neg"] for variant in report["variants"])
    variants = [
        variant
        for variant in report["variants"]
        if variant["num_neg"] == most or LOSSES[variant["loss"]].num_negatives is not None
    ]
    text = (
        f"The same questions, epochs, batches and learning rate, and {most} negatives a question; but `dpo` draws one "
        "and `sft` none. Each loss has a scale of its own, so only its fall says something. The last column is the "
        "mean log-prob of the right ending, in nats: a preference loss may lift it above the others and still lower "
        "it. Where one ending is right and all others are equally wrong, `dpo-pairs` and `dpo-best` are one loss."
    )
    return "\n\n".join(["## Losses at equal budget", text, _variants_table(report, variants)])


def _variants_table(report: dict, variants: Sequence[dict]) -> str:
    num_epochs = len(variants[0]["epoch_losses"])
    header = ["loss", "negatives", "beta", "seeds", "loss, step 0", *(f"epoch {n + 1}" for n in range(num_epochs))]
    *others, measured = report["questions"]
    header += [*others, measured, "min to max", "sd", "log-prob of the gold"]
    untuned = report[UNTUNED]
    rows = [[untuned_title(report), *[""] * (4 + num_epochs)]]
    rows[0] += [f"{untuned[split]['accuracy']:.1%}" for split in others]
    rows[0] += [accuracy_cell(untuned[measured]), "", "", f"{untuned[measured]['gold_logprob']:.1f}"]
    for variant in variants:
        losses = (f"{value:.4f}" for value in (variant["first_loss"], *variant["epoch_losses"]))
        rows.append([*_names(variant), str(len(variant["seeds"])), *losses])
        shown = variant[measured]
        spread = f"{min(shown['accuracies']):.1%} to {max(shown['accuracies']):.1%}"
        rows[-1] += [*(f"{variant[split]['accuracy']:.1%}" for split in others), accuracy_cell(shown), spread]
        rows[-1] += [points_cell(shown["deviation"]), f"{shown['gold_logprob']:.1f}"]
    return table(header, rows)


def _draws(report: dict) -> str:
    variants = [variant for variant in report["variants"] if variant["loss"] in ("dpo", "swepo")]
    if len({variant["loss"] for variant in variants}) < 2:
        return ""
    seeds = sorted({seed for variant in variants for seed in variant["seeds"]})
    rows = []
    for variant in variants:
        shown = variant[report["measured"]]
        variance = "" if shown["variance"] is None else f"{shown['variance'] * 1e4:.2f}"
        of_seeds = dict(zip(variant["seeds"], shown["accuracies"], strict=True))
        accuracies = (f"{of_seeds[seed]:.1%}" if seed in of_seeds else "" for seed in seeds)
        rows.append([*_names(variant), *accuracies, f"{shown['accuracy']:.1%}", variance])
    text = (
        f"Accuracy on {report['measured']} of each seed, that is, of each random draw of responses. `dpo` sees one "
        "negative a question and epoch, `swepo` as many as stated; where that is all there are, the seed draws no "
        "responses, only the rest of what it sets. Variance is the sample variance, in points squared."
    )
    if len(seeds) < 3:
        text += f" The table asks for three draws; this sweep has {len(seeds)}."
    header = ["loss", "negatives", "beta", *(f"seed {seed}" for seed in seeds), "mean", "variance"]
    return "\n\n".join(["## Random draws of responses (Table 2 of SWEPO)", text, table(header, rows)])


def _responses(figures: Sequence[str]) -> str:
    if "responses.png" not in figures:
        return ""
    return (
        "## Number of responses (Figure 4 of SWEPO)\n\nK responses are the right one and K - 1 negatives.\n\n"
        "![accuracy over the number of responses](responses.png)"
    )


def _examples(report: dict) -> str:
    examples = report.get("examples")
    if not examples:
        return ""
    parts = [
        "## What they write (section 6.3 of Marsh)",
        "Greedy, the likeliest token each time. Training ranks given endings; nothing teaches a model to write them.",
    ]
    for question in examples["questions"]:
        rows = [["gold", _cell(question["gold"])]]
        rows += [[title, _cell(text)] for title, text in question["written"].items()]
        parts += [f"`{question['id']}` {_cell(question['prompt'])}", table(["", "ending"], rows)]
    return "\n\n".join(parts)


def _names(variant: dict) -> list[str]:
    return [variant["loss"], str(variant["num_neg"]), "" if variant["beta"] is None else str(variant["beta"])]


def accuracy_cell(result: dict) -> str:
    low, high = result["interval"]
    return f"{result['accuracy']:.1%} [{low:.1%}, {high:.1%}]"


def points_cell(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"


def _cell(text: str) -> str:
    """Text that neither ends a table's cell nor begins anything in Markdown."""
    text = " ".join(text.split())
    for mark in "\\`*_|<>[]":
        text = text.replace(mark, "\\" + mark)
    return text or "(empty)"
