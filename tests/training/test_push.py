"""--push-to-hub: a finished run reaches the hub whole, and no failure of the hub's costs it."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import run_main
from hub_server import OWNER, TOKEN, hub_server
from huggingface_hub import ModelCard
from huggingface_hub.utils import reset_sessions

import train_sdpo
from lib.errors import InputError
from lib.hub import push_run
from lib.models.loading import load_model
from lib.models.runs import read_run

STAYS_HERE = {"checkpoints/step-00000001/trained.safetensors", "wandb/run-1/files/x", "trackio/x.db", ".lock"}
STAYS_HERE |= {"tensorboard/events.out"}
GOES = {
    "adapter_model.safetensors": bytes(range(256)) * 9,
    "README.md": b"---\nlibrary_name: peft\n---\n# A run\n",
    "run.json": '{"data": "Präzedenz"}'.encode(),
    "metrics.jsonl": b'{"step": 0}\n',
}


@pytest.fixture
def hub(monkeypatch):
    with hub_server() as hub:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        reset_sessions()  # one that was opened offline stays so
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


@pytest.fixture
def run(tmp_path) -> Path:
    """A folder with what a run consists of, and with what it does not."""
    for name, content in GOES.items() | {(name, b"here") for name in STAYS_HERE}:
        (tmp_path / "run" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / name).write_bytes(content)
    return tmp_path / "run"


def test_what_a_run_consists_of_arrives_byte_for_byte(hub, run):
    assert push_run(run, "law") == f"{hub.url}/{OWNER}/law"
    assert hub.repositories == {f"{OWNER}/law": GOES} and hub.lfs == {"adapter_model.safetensors"}


def test_a_repository_that_is_there_is_pushed_into(hub, run):
    hub.repositories["court/law"] = {"NOTES.md": b"mine"}
    push_run(run, "court/law")
    assert hub.repositories == {"court/law": GOES | {"NOTES.md": b"mine"}}


def test_a_push_that_fails_says_what_to_type_and_that_pushes_the_same(hub, run):
    hub.refuse = True
    message = r"run: the run is finished, but not pushed to law \(500 .*\); push it"
    with pytest.raises(InputError, match=message) as told:
        push_run(run, "law")
    assert hub.repositories == {f"{OWNER}/law": {}}
    hub.refuse = False
    program, *arguments = shlex.split(str(told.value).split("`")[1])
    environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0"}
    assert program == "hf"  # huggingface_hub's own
    command = [sys.executable, "-m", "huggingface_hub.cli.hf", *arguments]
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=600)
    assert hub.repositories == {f"{OWNER}/law": GOES}


def test_a_hub_out_of_reach_is_one_line(hub, run, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    message = r"not pushed to law \(.*Connection refused.*\); push it with `hf upload law"
    with pytest.raises(InputError, match=message) as told:
        push_run(run, "law")
    assert "\n" not in str(told.value)


def test_without_a_token_nothing_is_computed(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    ended = run_main(train_sdpo.main, "--push-to-hub", "law", "--model", "nowhere", "--output", tmp_path / "run")
    assert ended.returncode == 1 and not (tmp_path / "run").exists()
    assert ended.stderr == "error: --push-to-hub law: not logged in to the hub; type `hf auth login`, or set HF_TOKEN\n"


def test_a_name_that_no_hub_takes_ends_with_2(capsys):
    with pytest.raises(SystemExit) as stop:
        train_sdpo.main(["--push-to-hub", "a/b/c"])
    assert stop.value.code == 2 and "--push-to-hub" in capsys.readouterr().err


def test_training_pushes_its_run_and_a_hub_that_fails_costs_none(hub, tmp_path, monkeypatch, model_folder, data_folder):
    monkeypatch.chdir(tmp_path)
    flags = ["--model", model_folder, "--data", data_folder, "--epochs", 1, "--batch-size", 7, "--push-to-hub", "law"]
    done = run_main(train_sdpo.main, *flags, "--output", "runs/a")
    assert done.returncode == 0 and done.stdout.endswith(f"pushed: {hub.url}/{OWNER}/law\n")
    pushed = hub.repositories[f"{OWNER}/law"]
    assert pushed == {path.name: path.read_bytes() for path in Path("runs/a").iterdir() if path.is_file()}
    assert set(pushed) >= {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "prompt.json"}
    assert set(pushed) >= {"run.json", "metrics.jsonl", "README.md", "SHA256SUMS"}
    assert ModelCard(pushed["README.md"].decode()).data.library_name == "peft"
    hub.refuse = True
    failed = run_main(train_sdpo.main, *flags, "--output", "runs/b")
    assert failed.returncode == 1 and "push it with `hf upload law runs/b ." in failed.stderr.splitlines()[-1]
    assert read_run(Path("runs/b"))["finished"]
    assert load_model("runs/b", torch.float32).training["settings"]["push_to_hub"] == "law"
