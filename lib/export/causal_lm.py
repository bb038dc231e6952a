"""The standard decoder export, with key-value cache: what ORTModelForCausalLM and other tools load."""

import contextlib
import io
import logging
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

from lib.errors import InputError


def require_optimum() -> None:
    """Raises InputError, with what to install, where optimum's ONNX half is missing."""
    try:
        import optimum.onnxruntime  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"--format causal-lm needs optimum ({error}); pip install optimum==2.1.0 optimum-onnx==0.1.0 "
            "transformers==4.57.6"
        ) from None


def export_causal_lm(model_folder: Path, output: Path) -> None:
    """Export the fp32 model of `model_folder` into the existing folder `output` through optimum.

    Raises InputError for a model family that optimum does not know.
    """
    from optimum.exporters.onnx import main_export

    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            # Validation is ours, on real questions.
            main_export(
                str(model_folder), output, task="text-generation-with-past", local_files_only=True, do_validation=False
            )
    except (ValueError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"{model_folder}: optimum cannot export this model ({reason})") from None
    finally:
        logging.disable(logging.NOTSET)


def load_causal_lm(folder: Path) -> Callable:
    """The exported decoder in onnxruntime; called with `input_ids` [B, L] and `use_cache`, like Hugging Face models."""
    from optimum.onnxruntime import ORTModelForCausalLM

    decoder = ORTModelForCausalLM.from_pretrained(folder, provider="CPUExecutionProvider")
    return lambda input_ids, use_cache: decoder(
        input_ids=input_ids, attention_mask=torch.ones_like(input_ids), use_cache=use_cache
    )
