"""Checkpoints that survive `kill -9`: written under a temporary name, renamed when whole, loaded to the last bit."""

import json
import shutil
from pathlib import Path

from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import nn

from lib.errors import InputError

WEIGHTS_FILE = "trained.safetensors"
STATE_FILE = "state.json"


class Checkpoints:
    """`RUN/checkpoints/step-N`: trained weights, optimizer, schedule, random states, and where the loop stood."""

    def __init__(self, run: Path, accelerator: Accelerator, model: nn.Module):
        """`accelerator` saves what was prepared with it, but of the model only what is trained: the rest never
        changes."""
        self.folder = run / "checkpoints"
        self.accelerator = accelerator

        trained = {name: weight.data for name, weight in model.named_parameters() if weight.requires_grad}

        def save_trained(models, weights, output_dir):
            weights.clear()
            if accelerator.is_main_process:
                save_file(trained, Path(output_dir) / WEIGHTS_FILE)

        def load_trained(models, input_dir):
            models.clear()
            saved = load_file(Path(input_dir) / WEIGHTS_FILE)
            for name, weight in trained.items():
                weight.copy_(saved[name])

        accelerator.register_save_state_pre_hook(save_trained)
        accelerator.register_load_state_pre_hook(load_trained)

    def save(self, step: int, **state) -> None:
        """Save after `step` optimizer steps, then drop the older checkpoints. Every process calls this."""
        temporary, final = self.folder / f"incomplete-{step}", self.folder / f"step-{step:08d}"
        if final.exists():
            return
        self.accelerator.wait_for_everyone()
        self.accelerator.save_state(str(temporary))
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            (temporary / STATE_FILE).write_text(json.dumps({"step": step} | state), encoding="utf-8")
            temporary.rename(final)
            for old in self.folder.iterdir():
                if old != final:
                    shutil.rmtree(old)

    def load_newest(self) -> dict | None:
        """Restore the newest whole checkpoint and return its state, or None where there is none."""
        whole = sorted(self.folder.glob("step-*"))
        if not whole:
            return None
        try:
            state = json.loads((whole[-1] / STATE_FILE).read_text(encoding="utf-8"))
            self.accelerator.load_state(str(whole[-1]))
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise InputError(f"{whole[-1]}: broken checkpoint ({error}); start the run again") from None
        return state
