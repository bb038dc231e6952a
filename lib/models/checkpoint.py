"""Checkpoints that survive `kill -9`: written under a temporary name, renamed when whole, loaded to the last bit."""

import json
import pickle
import shutil
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import RNG_STATE_NAME, broadcast_object_list, gather_object, load
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from lib.checksums import check_sums, write_sums
from lib.errors import InputError, first_line, is_out_of_memory
from lib.paths import flush

WEIGHTS_FILE = "trained.safetensors"
STATE_FILE = "state.json"
NUM_KEPT = 2  # the older one is for the day on which the newest turns out broken
BROKEN = (OSError, EOFError, ValueError, KeyError, RuntimeError, SafetensorError, pickle.UnpicklingError)


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
        """Save after `step` optimizer steps, then drop all but the newest `NUM_KEPT`. Every process calls this.

        Raises InputError where it cannot be written; the older ones stay.
        """
        temporary, final = self.folder / f"incomplete-{step}", self.folder / f"step-{step:08d}"
        self.accelerator.wait_for_everyone()
        try:
            self.accelerator.save_state(str(temporary))
            self.accelerator.wait_for_everyone()
            if self.accelerator.is_main_process:
                (temporary / STATE_FILE).write_text(json.dumps({"step": step} | state), encoding="utf-8")
                write_sums(temporary)
                flush(temporary)
                temporary.rename(final)
                flush(self.folder)
        except (OSError, RuntimeError, SafetensorError) as error:
            shutil.rmtree(temporary, ignore_errors=True)
            free = shutil.disk_usage(self.folder.parent).free / 1e9
            raise InputError(
                f"{final}: cannot be written ({first_line(error)}; {free:.1f} GB are free); make room, then --resume"
            ) from None
        if self.accelerator.is_main_process:
            kept = self._newest_first()[:NUM_KEPT]
            for old in self.folder.iterdir():
                if old not in kept and old.is_dir():  # a file is another program's
                    shutil.rmtree(old)

    def load_newest(self) -> dict | None:
        """Restore the newest whole checkpoint and return its state, or None where there is none. Every process calls
        this, and all restore the same; a broken one is named and set aside.

        Raises InputError where all are broken, and where random states cannot be restored on this machine.
        """
        checkpoints, broken = broadcast_object_list([self._newest_first()])[0], []
        for checkpoint in checkpoints:
            state, problem = self._restore(checkpoint)
            problems = [found for found in gather_object([problem]) if found]
            if not problems:
                if self.accelerator.is_main_process:
                    for other in broken:
                        other.rename(other.with_name(f"broken-{other.name}"))
                return state
            broken.append(checkpoint)
            named = f"{checkpoint}: broken checkpoint ({problems[0]})"
            if checkpoint == checkpoints[-1]:
                raise InputError(f"{named}; start the run again")
            self.accelerator.print(f"warning: {named}; going on from the one before")
        return None

    def _newest_first(self) -> list[Path]:
        return sorted(self.folder.glob("step-*"), reverse=True)

    def _restore(self, checkpoint: Path) -> tuple[dict, str | None]:
        try:
            check_sums(checkpoint)
            state = json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8"))
            self.accelerator.load_state(str(checkpoint))
            random_states = load(checkpoint / f"{RNG_STATE_NAME}_{self.accelerator.process_index}.pkl")
        except (*BROKEN, InputError) as error:
            if is_out_of_memory(error):
                raise
            return {}, first_line(error)
        self._check_random_states(checkpoint, random_states)
        return state, None

    def _check_random_states(self, checkpoint: Path, saved: dict) -> None:
        """`load_state` passes over in silence what it cannot restore; dropout would differ from then on."""
        gpus = saved.get("torch_cuda_manual_seed", [])
        here = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        if len(gpus) != len(here):
            raise InputError(
                f"{checkpoint}: holds the random states of {len(gpus)} GPUs, and here are {len(here)}; go on where "
                "there are as many (CUDA_VISIBLE_DEVICES), or start a new run"
            )
        if not all(map(torch.equal, [saved["torch_manual_seed"], *gpus], [torch.get_rng_state(), *here])):
            raise InputError(f"{checkpoint}: its random states cannot be restored by torch {torch.__version__}")
