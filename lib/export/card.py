"""The model card of an export, NAME.md."""

import json
from pathlib import Path


def write_card(path: Path, metadata: dict[str, str], size: str, checks: list[str]) -> None:
    """What the graph is, what it was made from, and what was measured while it was exported, `checks`, in lines."""
    training = json.loads(metadata["training"])
    base = f"`{metadata['base_model']}`"
    made = f"Tuned from {base}" if training else f"Of {base}, without a record of training"
    settings = training.get("settings", {})
    rows = "".join(f"| {name} | {value} |\n" for name, value in settings.items())
    checked = "\n".join(f"- {line}" for line in checks)
    path.write_text(
        f"""# {path.stem}

{made}; weights: {metadata["quantization"].replace("none", "fp32")}, {size}. Prompt contract
{metadata["contract"]}, whole in the metadata of {path.stem}.onnx. Score with
`./cpp_scorer/score --model {path.stem}.onnx`.

Measured when it was exported:

{checked}
"""
        + (f"\n| setting of its training | value |\n|---|---|\n{rows}" if rows else ""),
        encoding="utf-8",
    )
