"""Model folders as the C++ scorer meets them: broken, hostile, mixed and corrupt ones end in one line, and `--check`
sees what loading cannot. And the program itself: what it is built with, and that it can be shipped."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import ROOT, SCORE, build_scorer, rows, write_jsonl
from onnx import TensorProto, helper

from lib.export.files import read_metadata

CPP = ROOT / "cpp_scorer"
CMAKE = shutil.which("cmake", path=f"{ROOT / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}")

pytestmark = pytest.mark.usefixtures("scorer")


@pytest.fixture
def folder(onnx_model, tmp_path) -> Path:
    """A copy of the tiny export that a test may break."""
    return shutil.copytree(onnx_model.parent, tmp_path / "export")


def run(*arguments, program=SCORE, **options) -> subprocess.CompletedProcess:
    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, timeout=60, **options)


def score(folder: Path, *flags, **options) -> subprocess.CompletedProcess:
    questions = "".join(json.dumps(row) + "\n" for row in rows(2))
    return run("--model", folder / "model.onnx", *flags, input=questions, **options)


def refusal(result: subprocess.CompletedProcess) -> str:
    """The one line of a program that refuses its model."""
    assert result.returncode == 1 and result.stdout == "", result
    assert re.fullmatch(r"error: [^\n]*\n", result.stderr), result.stderr
    assert result.stderr[:-1].isprintable()
    return result.stderr


def change(folder: Path, edit) -> None:
    """Edits the ModelProto of the export, its weights left alone."""
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    edit(model)
    onnx.save(model, folder / "model.onnx")


def set_metadata(folder: Path, **values: str) -> None:
    def edit(model):
        for entry in model.metadata_props:
            entry.value = values.get(entry.key, entry.value)

    change(folder, edit)


def weights(folder: Path) -> Path:
    return folder / read_metadata(folder / "model.onnx")["data_file"]


# ---- hostile folders ----


@pytest.mark.parametrize("name", ["/etc/passwd", "../tokenizer.json", "/dev/zero", "/dev/stdin", "x\n\x1b[2J/", ".."])
def test_no_file_elsewhere_is_opened(folder, name):
    set_metadata(folder, tokenizer_file=name)
    assert "not the name of a file beside it" in refusal(score(folder))


def test_a_pipe_or_a_device_is_no_tokenizer(folder):
    (folder / "tokenizer.json").unlink()
    os.mkfifo(folder / "tokenizer.json")
    assert "is no regular file" in refusal(score(folder))
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").symlink_to("/dev/zero")
    assert "is no regular file" in refusal(score(folder))


def test_a_deeply_nested_tokenizer_is_refused(folder):
    deep = "[" * 300_000 + "]" * 300_000
    text = f'{{"version": "1.0", "normalizer": {{"type": "NFC"}}, "pre_tokenizer": {deep}}}'
    (folder / "tokenizer.json").write_text(text)
    set_metadata(folder, tokenizer_sha256=hashlib.sha256(text.encode()).hexdigest())
    assert "tokenizer.json: broken JSON: nested deeper than 32 levels" in refusal(score(folder))


@pytest.mark.parametrize("location", ["foreign.data", "tokenizer.json", "*/_ORT_MEM_ADDR_/*"])
def test_a_graph_reads_no_weights_but_the_exports(folder, location):
    shutil.copy(weights(folder), folder / "foreign.data")

    def edit(model):
        large = max(model.graph.initializer, key=lambda tensor: len(tensor.external_data))
        next(entry for entry in large.external_data if entry.key == "location").value = location

    change(folder, edit)
    assert f"its graph reads weights from '{location}'" in refusal(score(folder))


# ---- graphs that are not the scorer's ----


def test_log_probs_of_another_type_are_refused(folder):
    def edit(model):
        [output] = model.graph.output
        node = next(node for node in model.graph.node if output.name in node.output)
        node.output[list(node.output).index(output.name)] = "fp32"
        model.graph.node.append(helper.make_node("Cast", ["fp32"], [output.name], to=TensorProto.FLOAT16))
        output.type.tensor_type.elem_type = TensorProto.FLOAT16

    change(folder, edit)
    assert "output logprobs is not fp32 of rank 2" in refusal(score(folder))


@pytest.mark.parametrize("how", ["type", "rank", "name", "more"])
def test_other_inputs_are_refused(folder, how):
    def edit(model):
        tensor = helper.make_tensor_value_info("made_up", TensorProto.INT64, ["B", "L"])
        ids = next(value for value in model.graph.input if value.name == "pred_index")
        if how == "more":
            model.graph.input.append(tensor)
            return
        # The graph goes on with pred_index, made of the other input.
        model.graph.input.remove(ids)
        if how == "type":
            tensor = helper.make_tensor_value_info("pred_index", TensorProto.INT32, ["B", "L"])
        elif how == "rank":
            tensor = helper.make_tensor_value_info("pred_index", TensorProto.INT64, ["B", "L", 1])
        model.graph.input.append(tensor)
        for node in model.graph.node:
            node.input[:] = ["inner" if name == "pred_index" else name for name in node.input]
        if how == "rank":
            model.graph.initializer.append(helper.make_tensor("axes", TensorProto.INT64, [1], [2]))
            model.graph.node.insert(0, helper.make_node("Squeeze", [tensor.name, "axes"], ["inner"]))
        else:
            model.graph.node.insert(0, helper.make_node("Cast", [tensor.name], ["inner"], to=TensorProto.INT64))

    change(folder, edit)
    wanted = "it has other inputs too" if how == "more" else "input pred_index is not int64 of rank 2"
    assert wanted in refusal(score(folder))


# ---- --check ----


def test_check_passes_what_was_exported(folder):
    result = run("--check", "--model", folder / "model.onnx")
    assert result.returncode == 0 and result.stderr == ""
    assert re.fullmatch(
        r".*model.onnx: the weights are those that were exported; 3 golden questions give the same, to \S+ nats\n",
        result.stdout,
    )
    both = run("--check", "--model", folder / "model.onnx", "--reference", folder / "model.onnx")
    assert both.returncode == 0 and both.stdout == result.stdout * 2


def test_check_finds_corrupt_weights_of_the_same_size(folder):
    """Scoring cannot see them: every number is finite, the file as long as it was."""
    before = score(folder)
    values = np.fromfile(weights(folder), np.uint32)
    values[::100] ^= 1 << 22
    values.tofile(weights(folder))
    scored = score(folder)
    assert scored.returncode == before.returncode == 0 and scored.stdout != before.stdout
    assert "are not those that were exported (SHA-256 differs)" in refusal(
        run("--check", "--model", folder / "model.onnx")
    )


def test_check_finds_a_graph_that_answers_otherwise(folder):
    """One bit of the .onnx file is enough; where its hash is made to fit, the log-probs tell."""

    def edit(model):
        norm = next(node for node in model.graph.node if node.op_type == "RMSNormalization")
        next(attribute for attribute in norm.attribute if attribute.name == "epsilon").f = 1.0

    change(folder, edit)
    message = refusal(run("--check", "--model", folder / "model.onnx"))
    assert "model.golden.jsonl:1: a question of another export" in message
    golden, sha256 = folder / "model.golden.jsonl", hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest()
    records = map(json.loads, golden.read_text(encoding="utf-8").splitlines())
    write_jsonl(golden, [record | {"model_sha256": sha256} for record in records])
    message = refusal(run("--check", "--model", folder / "model.onnx"))
    assert re.search(r"model.golden.jsonl:1: candidate 0 has log-prob -\S+ here, -\S+ where it was exported", message)


@pytest.mark.parametrize(
    ("field", "value", "what"),
    [
        ("logprobs", [-1.0], "field 'logprobs': not one number a candidate"),
        ("logprobs", "none", "field 'logprobs': is not a list of numbers"),
        ("prompt_ids", [1, 2], "the ids of its text are not those it was exported with"),
        ("ending_ids", [[1], [2]], "the ids of its text are not those it was exported with"),
        ("ending_ids", None, "field 'ending_ids': is missing"),
        ("model_sha256", None, "field 'model_sha256': is missing"),
        ("endings", ["a"], "field 'endings': 1 candidates"),
    ],
)
def test_check_names_the_broken_golden_question(folder, field, value, what):
    golden = folder / "model.golden.jsonl"
    first, second, _ = (json.loads(line) for line in golden.read_text(encoding="utf-8").splitlines())
    second[field] = value
    if value is None:
        del second[field]
    write_jsonl(golden, [first, second])
    message = refusal(run("--check", "--model", folder / "model.onnx"))
    assert f"model.golden.jsonl:2: {what}" in message


def test_check_needs_golden_questions(folder):
    golden = folder / "model.golden.jsonl"
    golden.write_text("\n")
    assert "holds no questions" in refusal(run("--check", "--model", folder / "model.onnx"))
    golden.unlink()
    assert "golden questions of the export are missing" in refusal(run("--check", "--model", folder / "model.onnx"))


# ---- what it is built with ----


def fake_onnxruntime(path: Path, version: str) -> Path:
    """A library that says it is this version of onnxruntime, and has no interface for newer programs."""
    source = path / "fake.c"
    source.write_text(
        "const void* api(unsigned version) { return 0; }\n"
        f'const char* version(void) {{ return "{version}"; }}\n'
        "struct { const void* (*api)(unsigned); const char* (*version)(void); } base = {api, version};\n"
        "const void* OrtGetApiBase(void) { return &base; }\n"
    )
    # The symbol's version, which the loader compares, is the one that the program was linked with.
    [symbols] = set(re.findall(rb"VERS_1\.[0-9.]+", SCORE.read_bytes())) or {b"VERS_1"}
    (path / "fake.map").write_text(f"{symbols.decode()} {{ global: OrtGetApiBase; local: *; }};\n")
    flags = ["-shared", "-fPIC", "-Wl,-soname,libonnxruntime.so.1", f"-Wl,--version-script={path / 'fake.map'}"]
    compiler = os.environ.get("CC", "cc")
    subprocess.run([compiler, *flags, source, "-o", path / "libonnxruntime.so.1"], check=True)
    return path


@pytest.mark.parametrize("version", ["1.20.1", "1.22.2", "1.99.0", "2.0.0", "\n", ""])
def test_an_onnxruntime_that_cannot_run_it_is_refused_at_start(folder, tmp_path, version):
    """1.99.0 says that it can, and has no interface after all."""
    library = fake_onnxruntime(tmp_path, version.replace("\n", "\\n"))
    message = refusal(score(folder, env=os.environ | {"LD_LIBRARY_PATH": str(library)}))
    assert "cannot run this program's models; put version 1.23 or a later 1.x beside it" in message


def configure(build: Path, *flags) -> subprocess.CompletedProcess:
    return run("-S", CPP, "-B", build, *flags, program=CMAKE)


def test_an_onnxruntime_that_cannot_run_it_is_refused_at_configure_time(tmp_path):
    root = tmp_path / "onnxruntime"
    shutil.copytree(ROOT / ".deps" / "onnxruntime" / "include", root / "include")
    (root / "lib").mkdir()
    for version, enough in (("1.22.2", False), ("1.23.0", True)):
        (root / "lib" / "libonnxruntime.so").write_bytes(b"\x7fELF\0VERS_%b\0" % version.encode())
        result = configure(tmp_path / "build", f"-DONNXRUNTIME_ROOT={root}")
        assert (result.returncode == 0) == enough, result
        assert ("too old: 1.23 or newer is needed" in result.stdout) != enough
    # Headers that ask for a newer interface than the library has.
    header = root / "include" / "onnxruntime_c_api.h"
    header.write_text(re.sub(r"(?m)^(#define ORT_API_VERSION) \d+", r"\1 32", header.read_text()))
    assert configure(tmp_path / "build", f"-DONNXRUNTIME_ROOT={root}").returncode == 1


def test_the_library_that_is_fetched_is_the_one_that_verified_the_export():
    script = (ROOT / "tools" / "get_native_deps.sh").read_text()
    [pinned] = re.findall(r"^onnxruntime_version=(\S+)$", script, re.MULTILINE)
    assert f"onnxruntime-gpu=={pinned} " in (ROOT / "requirements.txt").read_text()


def test_configuring_fetches_nothing_unasked(tmp_path):
    shutil.copytree(CPP, tmp_path / "cpp_scorer", ignore=shutil.ignore_patterns("build*", "score"))
    without_system = "-DCMAKE_FIND_USE_CMAKE_SYSTEM_PATH=OFF"
    result = run("-S", tmp_path / "cpp_scorer", "-B", tmp_path / "build", without_system, program=CMAKE)
    assert result.returncode == 1
    assert "Fetch them with tools/get_native_deps.sh onnxruntime json httplib" in " ".join(result.stderr.split())


def run_paths(program: Path) -> list[str]:
    dynamic = subprocess.run(["readelf", "-d", program], capture_output=True, text=True, check=True).stdout
    return [path for paths in re.findall(r"\(R(?:UN)?PATH\)\s+.*\[(.*)\]", dynamic) for path in paths.split(":")]


def test_what_is_installed_runs_after_it_was_moved(folder, tmp_path):
    """With onnxruntime's library in it, and nothing from where it was built."""
    prefix = tmp_path / "prefix"
    subprocess.run([CMAKE, "--install", CPP / "build", "--prefix", prefix], check=True, stdout=subprocess.DEVNULL)
    moved = prefix.rename(tmp_path / "moved")
    links = [os.readlink(path) for path in moved.rglob("*") if path.is_symlink()]
    assert links and not [link for link in links if "/" in link]  # libscore.so and its versions, side by side
    program = moved / "bin" / "score"
    for built in (program, SCORE):
        assert all(path.startswith("$ORIGIN") for path in run_paths(built)), built
    found = run("--model", folder / "model.onnx", "--check", program=program, env={}, cwd="/")
    assert found.returncode == 0, found.stderr
    if run_paths(program):  # else onnxruntime is the system's
        loaded = run(program, program="ldd").stdout
        assert f"=> {moved}/bin/../lib/score/libonnxruntime.so.1" in loaded


def test_the_library_beside_the_program_is_a_file_of_its_own():
    """What is copied from .deps must not point back into it, or into the Python environment."""
    library = ROOT / ".deps" / "onnxruntime" / "lib" / "libonnxruntime.so.1"
    assert library.is_file() and not library.is_symlink()


def test_the_program_is_hardened():
    headers = subprocess.run(["readelf", "-Wlds", SCORE], capture_output=True, text=True, check=True).stdout
    assert "GNU_RELRO" in headers and re.search(r"FLAGS_1\).*NOW.*PIE", headers)
    assert "__stack_chk_fail" in headers and re.search(r"__\w+_chk\b", headers.replace("__stack_chk_fail", ""))
    assert re.search(r"GNU_STACK\s+\S+ \S+ \S+ \S+ \S+ RW ", headers)


# ---- sanitizers and fuzzing ----


@pytest.mark.slow
def test_unit_tests_and_streams_under_the_thread_sanitizer(folder):
    build_scorer("--sanitize=thread")
    build = CPP / "build-sanitize-thread"
    ctest = Path(CMAKE).with_name("ctest")
    subprocess.run([ctest, "--test-dir", build, "--output-on-failure", "--timeout", "300"], check=True)
    questions = "".join(json.dumps(row) + "\n" for row in rows(50))
    suppressed = os.environ | {"TSAN_OPTIONS": f"suppressions={CPP / 'tests' / 'thread_sanitizer.supp'}"}
    for threads, environment in (("1", os.environ), ("2", suppressed)):
        flags = ["--model", folder / "model.onnx", "--threads", threads]
        result = run(*flags, program=build / "score", input=questions, env=environment)
        assert result.returncode == 0 and len(result.stdout.splitlines()) == 50, result.stderr
        assert "ThreadSanitizer" not in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("target", ["fuzz_metadata", "fuzz_line_reader"])
def test_fuzzing_finds_nothing(target):
    """Another seed every time, a minute each; the message names the seed of a finding."""
    build_scorer("--sanitize")
    subprocess.run([CPP / "build-sanitize" / "tests" / target, "60", str(time.time_ns())], check=True)
