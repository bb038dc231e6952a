"""Export: the graph is the model, the files are whole and belong together, and nothing half-made stays behind."""

import contextlib
import io
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnx_ir
import pytest
import torch
from conftest import SCORE, rows, run_main, tiny_model
from transformers import AutoModelForCausalLM

import eval_mc
import export
import train_sdpo
from lib.errors import InputError
from lib.export.calibration import channel_scales
from lib.export.check import largest_difference
from lib.export.files import read_metadata, write_model
from lib.export.graph import export_graph
from lib.export.int8 import quantize, use_matmul
from lib.export.quantization import check_flips, compare_quantized, quantization_report
from lib.export.session import onnx_scorer, open_export
from lib.models.loading import load_model
from lib.packed.pack import TENSORS, PackedBatch, pack
from lib.packed.scoring import PackedScorer
from lib.questions.data import Question, load_split
from lib.questions.prompt import EncodedQuestion, encode_questions
from lib.questions.prompt_config import PromptConfig

TOLERANCE = dict(rtol=1e-5, atol=1e-4)  # of a log-prob near -100, in fp32


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory, model_folder, data_folder):
    """A trained run, its adapter large enough to tell from none."""
    folder = tmp_path_factory.mktemp("runs") / "tuned"
    flags = ["--epochs", "2", "--learning-rate", "1e-2", "--output", str(folder)]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder.parent)
        train_sdpo.main(["--model", str(model_folder), "--data", str(data_folder), *flags])
    return folder


@pytest.fixture(scope="module")
def exports(tmp_path_factory, run_folder, data_folder) -> tuple[Path, str]:
    """The run in fp32 and int8 in one folder, its merged model, and what was printed of the int8 form."""
    folder = tmp_path_factory.mktemp("onnx")
    # The tiny model is not sure of much, so that int8 may turn any choice.
    common = ["--model", str(run_folder), "--data", str(data_folder), "--max-flips", "1"]
    assert export.main([*common, "--output", str(folder / "model.onnx"), "--merged-dir", str(folder / "merged")]) == 0
    with contextlib.redirect_stdout(io.StringIO()) as printed, traced_before(folder / "model.onnx"):
        assert export.main([*common, "--output", str(folder / "model.int8.onnx"), "--quantize", "int8"]) == 0
    return folder, printed.getvalue()


@contextlib.contextmanager
def traced_before(path: Path):
    """Another export of the same model begins with the graph at `path`: the trace alone takes seconds. What follows,
    the comparison with PyTorch included, is done on it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "export_graph", lambda _: onnx_ir.load(path))
        yield


@pytest.fixture
def exported(exports) -> Path:
    return exports[0]


@pytest.fixture(scope="module", params=["qwen2", "llama", "qwen3", "tied", "deep"])
def graph(request, tmp_path_factory, onnx_model):
    """A model with large weights, its graph in onnxruntime, and the graph's file."""
    if request.param == "qwen2":
        return PackedScorer(tiny_model()), onnx_scorer(onnx_model), onnx_model
    family, changes = request.param, {}
    if request.param == "tied":
        family, changes = "qwen2", {"tie_word_embeddings": True, "num_hidden_layers": 1}
    if request.param == "deep":  # enough layers that one is traced for several
        family, changes = "qwen3", {"num_hidden_layers": 5}
    model = tiny_model(family, **changes)
    path = write_model(export_graph(model), tmp_path_factory.mktemp("graph"), "model", {})
    for name, weight in tiny_model(family, **changes).state_dict().items():
        assert model.state_dict()[name].equal(weight)  # exporting leaves the model as it was
    return PackedScorer(model), onnx_scorer(path), path


def expected(scorer: PackedScorer, batch: PackedBatch) -> np.ndarray:
    with torch.no_grad():
        return scorer(batch).numpy()


# ---- the graph ----


def test_the_graph_equals_pytorch_for_any_sizes(graph, encode):
    scorer, run, _ = graph
    for num_questions, num_candidates in ((1, 2), (1, 5), (2, 3), (3, 9)):
        batch = pack(encode(rows(num_questions, num_candidates, start=num_questions)))
        np.testing.assert_allclose(run(batch), expected(scorer, batch), **TOLERANCE)
    ragged = pack(encode(rows(2, 3) + rows(1, 7, start=40)))
    found, wanted = run(ragged), expected(scorer, ragged)
    assert found.shape == (3, 7) and (found[:2, 3:] == 0).all()
    np.testing.assert_allclose(found, wanted, **TOLERANCE)


def test_rows_of_a_few_tokens(graph):
    """A prompt of one to three tokens whose candidates feed none, or one: shorter than attention's blocks."""
    scorer, run, _ = graph
    question = Question("q", {"context": ""}, ("a", "b"), (1.0, 0.0), 0, "made:1")
    for prompt_ids in ([5], [5, 6], [5, 6, 7]):
        for endings in ([[8], [9]], [[8], [9, 10]]):
            batch = pack([EncodedQuestion(question, prompt_ids, endings)])
            np.testing.assert_allclose(run(batch), expected(scorer, batch), **TOLERANCE)


@pytest.mark.parametrize("wrong", ["positions", "segments", "rows"])
def test_a_wrong_input_would_show(graph, encode, wrong):
    """Positions that go on where they should restart, branches that see each other, rows shifted by one."""
    scorer, run, _ = graph
    batch = pack(encode(rows(1)))
    right = expected(scorer, batch)
    if wrong == "positions":
        changed = replace(batch, position_ids=torch.arange(batch.input_ids.shape[1])[None])
    elif wrong == "segments":
        changed = replace(batch, segment_ids=batch.segment_ids * 0)
    else:
        changed = replace(batch, pred_index=batch.pred_index - 1)
    found = run(changed)
    assert np.abs(found - right).max() > 0.1
    np.testing.assert_allclose(found, expected(scorer, changed), **TOLERANCE)


def test_log_probs_are_all_that_leaves_the_graph(graph):
    model = onnx.load(graph[2], load_external_data=False)
    assert tuple(value.name for value in model.graph.input) == TENSORS
    assert [value.name for value in model.graph.output] == ["logprobs"]
    onnx.checker.check_model(str(graph[2]))
    # Summed by scatter: a mask of candidates by tokens would make 40 kB of text gigabytes.
    assert [node.op_type for node in model.graph.node if "logprobs" in node.output] == ["ScatterElements"]


# ---- the files ----


def test_metadata_carry_all_that_the_scorer_needs(exported, run_folder, tokenizer):
    metadata = read_metadata(exported / "model.onnx")
    prompt = PromptConfig.load(run_folder)
    assert metadata["contract"] == prompt.digest
    assert metadata["template"] == prompt.template and metadata["max_length"] == str(prompt.max_length)
    assert metadata["end_token_id"] == str(tokenizer.eos_token_id) and metadata["end_token"] == tokenizer.eos_token
    training = json.loads(metadata["training"])
    assert training == json.loads((run_folder / "run.json").read_text())
    assert metadata["base_model"] == training["settings"]["model"]
    assert metadata["data_sha256"] == training["data_sha256"]["train"]
    assert metadata["quantization"] == "none"
    quantized = read_metadata(exported / "model.int8.onnx")
    assert quantized["quantization"] == "int8"
    price = json.loads(quantized["quantization_check"], parse_constant=pytest.fail)  # no Infinity: JSON has none
    card = (exported / "model.int8.md").read_text(encoding="utf-8")
    assert f"{price['per_token']:.2g} a token" in card and "| loss | sdpo |" in card
    assert (exported / metadata["data_file"]).name.startswith("model.") and len(metadata["weights_sha256"]) == 64
    assert metadata["data_file"].split(".")[1] == metadata["weights_sha256"][:16]


@pytest.mark.parametrize("name", ["model", "model.int8"])
def test_python_and_cpp_reproduce_the_golden_file(exported, scorer, tokenizer, name):
    golden = exported / f"{name}.golden.jsonl"
    records = [json.loads(line) for line in golden.read_text(encoding="utf-8").splitlines()]
    assert len(records) == 6 and "with an ending that is cut" in records[-1]["id"]
    assert max(map(len, records[-1]["ending_ids"])) == 256
    data = load_split(str(golden), "test")
    config = PromptConfig.load(exported / "merged")
    encoded = encode_questions(data.questions, tokenizer, config)
    run = onnx_scorer(exported / f"{name}.onnx")
    result = run_scorer(exported / f"{name}.onnx", golden)
    for item, record, answer in zip(encoded, records, result, strict=True):
        assert item.prompt_ids == record["prompt_ids"] and item.ending_ids == record["ending_ids"]
        assert run(pack([item]))[0].tolist() == pytest.approx(record["logprobs"], abs=1e-3)
        assert answer["logprobs"] == pytest.approx(record["logprobs"], abs=1e-3)
        assert int(np.argmax(answer["logprobs"])) == record["argmax"]


def run_scorer(model, questions) -> list[dict]:
    result = subprocess.run([SCORE, "--model", model, "--input", questions], capture_output=True, check=True)
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_the_merged_model_is_the_adapter(exported, run_folder, model_folder, data_folder, tmp_path):
    found = {}
    for name, model in (("base", model_folder), ("adapter", run_folder), ("merged", exported / "merged")):
        flags = ["--model", str(model), "--data", str(data_folder), "--output", str(tmp_path / name)]
        assert eval_mc.main(flags) == 0
        found[name] = [json.loads(line)["logprobs"] for line in (tmp_path / name).read_text().splitlines()]
    np.testing.assert_allclose(found["merged"], found["adapter"], **TOLERANCE)
    assert np.abs(np.subtract(found["base"], found["adapter"])).max() > 1
    AutoModelForCausalLM.from_pretrained(exported / "merged", use_safetensors=True)


def test_a_merged_folder_is_checked_as_it_is_loaded(exported, tmp_path):
    folder = shutil.copytree(exported / "merged", tmp_path / "merged")
    subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=folder, check=True, capture_output=True)
    summed = {line.split("  ")[1] for line in (folder / "SHA256SUMS").read_text().splitlines()}
    assert summed == {path.name for path in folder.iterdir()} - {"SHA256SUMS"}
    flip_a_bit(folder / "model.safetensors")
    with pytest.raises(InputError, match="model.safetensors: not as it was written"):
        load_model(str(folder), torch.float32)


@pytest.mark.parametrize("damaged", ["model.onnx", "weights", "tokenizer.json", "golden questions"])
def test_python_refuses_what_was_not_exported_together(exported, tmp_path, damaged):
    """Neither a bit of the graph's small tensors nor one of the weights changes an answer unseen."""
    folder = shutil.copytree(exported, tmp_path / "onnx")
    model, golden = folder / "model.onnx", folder / "model.golden.jsonl"
    open_export(model)
    if damaged == "golden questions":
        shutil.copy(folder / "model.int8.golden.jsonl", golden)
    elif damaged == "weights":
        flip_a_bit(folder / read_metadata(model)["data_file"])
    else:
        graph = model.read_bytes()
        norm = next(value for value in onnx.load(model).graph.initializer if "norm" in value.name)
        place = graph.index(norm.raw_data) if damaged == "model.onnx" else 9
        flip_a_bit(folder / damaged, place)
    with pytest.raises(InputError, match=f"(model|tokenizer)[.a-z0-9]*: not .* {model.name} "):
        open_export(model)


def flip_a_bit(path: Path, place: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


def test_exports_of_one_tokenizer_share_a_folder_and_others_are_refused(exported, run_folder, data_folder, tmp_path):
    names = {path.name for path in exported.iterdir() if path.is_file()}
    assert {"model.onnx", "model.int8.onnx", "tokenizer.json", "model.golden.jsonl"} <= names
    assert len(names) == 9  # and a data file and a card each, and the other golden
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match="not this model's tokenizer"):
        export.main(export_flags(run_folder, data_folder, tmp_path / "model.onnx"))
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.json"]


def test_somebodys_text_is_not_written_over_with_the_card(run_folder, data_folder, tmp_path):
    (tmp_path / "README.md").write_text("notes")
    with pytest.raises(InputError, match="README.md: would be written over with the model's card; choose another name"):
        export.main(export_flags(run_folder, data_folder, tmp_path / "README.onnx"))
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


def test_a_tokenizer_that_came_while_the_graph_was_made_stays(run_folder, data_folder, tmp_path, monkeypatch):
    """Of another export into the same folder, which would be refused from then on."""
    made = export.write_golden

    def write_golden(*given) -> None:
        (tmp_path / "tokenizer.json").write_text("{}")
        made(*given)

    monkeypatch.setattr(export, "write_golden", write_golden)
    with pytest.raises(InputError, match="not this model's tokenizer"):
        export.main(export_flags(run_folder, data_folder, tmp_path / "model.onnx"))
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.json"]


def export_flags(model, data, output, *more) -> list[str]:
    return [*map(str, ("--model", model, "--data", data, "--output", output, "--limit", 2, *more))]


def test_a_second_export_replaces_the_first_whole_and_needs_no_optimum(
    exported, onnx_model, model_folder, data_folder, tmp_path, monkeypatch
):
    """`onnx_model` was traced without optimum too."""
    monkeypatch.setitem(sys.modules, "optimum", None)
    monkeypatch.setitem(sys.modules, "optimum.onnxruntime", None)
    folder = shutil.copytree(exported, tmp_path / "onnx")
    with traced_before(onnx_model):
        export.main(export_flags(model_folder, data_folder, folder / "model.onnx"))
    named = {read_metadata(folder / name)["data_file"] for name in ("model.onnx", "model.int8.onnx")}
    assert {path.name for path in folder.glob("*.data")} == named
    assert read_metadata(exported / "model.onnx")["data_file"] not in named


@pytest.mark.parametrize("what", ["merged model and adapter", "onnxruntime and PyTorch"])
def test_a_difference_ends_it_and_leaves_nothing(exported, run_folder, data_folder, tmp_path, monkeypatch, what):
    def differ(label, one, other):
        return largest_difference(label, np.array(one) + 0.01 if label == what else one, other)

    monkeypatch.setattr(export, "largest_difference", differ)
    with pytest.raises(InputError, match=f"{what}: log-probs differ by 0.01"), traced_before(exported / "model.onnx"):
        export.main(export_flags(run_folder, data_folder, tmp_path / "out" / "model.onnx"))
    assert list(tmp_path.rglob("*.*")) == []


# ---- int8 ----


def test_int8_covers_every_product_by_weights_the_projection_included(exported):
    """What stays in fp32 multiplies two activations, attention's scores and mix, or rotates some. No channel is out of
    line here."""
    model = onnx.load(exported / "model.int8.onnx", load_external_data=False)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    products = [node for node in model.graph.node if node.op_type in ("MatMul", "Gemm")]
    assert products and not {name for node in products for name in node.input} & weights.keys() - {"int8_hadamard"}
    integer = [node for node in model.graph.node if node.op_type == "MatMulIntegerToFloat"]
    assert len(integer) == 2 * 7 + 1  # seven linear layers in two blocks, and the vocabulary in one slice
    assert all(weights[node.input[1]].data_type == onnx.TensorProto.INT8 for node in integer)
    scales = [tensor for name, tensor in weights.items() if name.endswith("_scale") and len(tensor.dims) == 1]
    assert len(scales) >= len(integer) and all(tensor.dims[0] > 1 for tensor in scales)  # one a channel


@pytest.mark.parametrize("form", ["int8", "int8x2"])
def test_an_int8_log_prob_depends_on_nothing_else_in_the_run(exported, tmp_path, encode, form):
    """To the last digit: neither on other questions, nor on other candidates."""
    path = tmp_path / "model.onnx"
    onnx_ir.save(quantize(exported / "model.onnx", form, encode(rows(6))), path, external_data="model.data")
    run = onnx_scorer(path)
    encoded = encode(rows(6, num_candidates=5))
    together = run(pack(encoded))
    for item, row in zip(encoded, together, strict=True):
        assert run(pack([item]))[0].tolist() == row.tolist()
        fewer = replace(item, ending_ids=item.ending_ids[:2])
        assert run(pack([fewer]))[0].tolist() == row[:2].tolist()


def with_rounded_weights(source: Path, path: Path, form: str) -> Path:
    """The fp32 graph with the weights that an 8-bit form has; activations stay exact, and so do the weights of int8x2
    that have 16 bits."""
    model = onnx_ir.load(source)
    projection = use_matmul(model.graph)
    for node in model.graph:
        axis, place = {"MatMul": (0, 1), "Gather": (1, 0)}.get(node.op_type, (None, 0))
        if axis is not None and node.inputs[place].is_initializer() and len(node.inputs[place].shape) == 2:
            weight = node.inputs[place]
            array = weight.const_value.numpy()
            on_its_way_up = array.shape[1] > array.shape[0] and node not in projection
            if form == "int8x2" and (on_its_way_up or node.op_type == "Gather"):
                continue
            scales = np.expand_dims(channel_scales(array if axis == 0 else array.T), axis)
            weight.const_value = onnx_ir.Tensor(np.rint(array / scales) * scales, name=weight.name)
    onnx_ir.save(model, path, external_data=f"{path.stem}.data")
    return path


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("bias", [[], [np.float32([3, -1])]], ids=["without", "with a bias"])
def test_a_product_of_two_axes_is_a_matmul(transposed, bias):
    """As Phi's projection has a bias, and GPT-2's weights are [in, out]."""
    rows, weight = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32), np.eye(2, 4, dtype=np.float32)
    constants = [weight if transposed else weight.T, *bias]
    names = ["weight", "bias"][: len(constants)]
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Gemm", ["rows", *names], ["logits"], transB=transposed),
            onnx.helper.make_node("LogSoftmax", ["logits"], ["logprobs"]),
        ],
        "product",
        [onnx.helper.make_tensor_value_info("rows", onnx.TensorProto.FLOAT, [3, 4])],
        [onnx.helper.make_tensor_value_info("logprobs", onnx.TensorProto.FLOAT, [3, 2])],
        [
            onnx.numpy_helper.from_array(np.ascontiguousarray(value), name)
            for value, name in zip(constants, names, strict=True)
        ],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)])
    (before,) = onnx.reference.ReferenceEvaluator(model).run(None, {"rows": rows})
    changed = onnx_ir.from_proto(model)
    (projection,) = use_matmul(changed.graph)
    assert projection.op_type == "MatMul" and not [node for node in changed.graph if node.op_type == "Gemm"]
    (after,) = onnx.reference.ReferenceEvaluator(onnx_ir.to_proto(changed)).run(None, {"rows": rows})
    np.testing.assert_allclose(after, before, rtol=1e-6)


def test_a_second_pass_leaves_little_but_the_rounding_of_the_weights(exported, tmp_path, encode):
    batch, changes = pack(encode(rows(6))), {}
    for form in ("int8", "int8x2"):
        exact = onnx_scorer(with_rounded_weights(exported / "model.onnx", tmp_path / f"exact_{form}.onnx", form))
        path = tmp_path / f"{form}.onnx"
        onnx_ir.save(quantize(exported / "model.onnx", form, encode(rows(6))), path, external_data=f"{form}.data")
        changes[form] = np.abs(onnx_scorer(path)(batch) - exact(batch)).mean()
    assert changes["int8x2"] < 0.05 * changes["int8"]


@pytest.mark.slow
def test_a_gate_of_two_products_owes_both_scales(export, tokenizer, encode, tmp_path):
    """Without an activation between, each factor of the gate is a product's."""
    tiny_model(hidden_act="linear").save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    source, batch = export(tmp_path / "base"), pack(encode(rows(6)))
    for form in ("int8", "int8x2"):
        exact = onnx_scorer(with_rounded_weights(source, tmp_path / f"exact_{form}.onnx", form))(batch)
        onnx_ir.save(quantize(source, form, encode(rows(6))), tmp_path / f"{form}.onnx", external_data=f"{form}.data")
        change = np.abs(onnx_scorer(tmp_path / f"{form}.onnx")(batch) - exact).mean()
        assert change < 0.02 * np.abs(exact).mean()


def test_a_form_that_flips_more_choices_than_allowed_is_refused():
    items = [SimpleNamespace(question=SimpleNamespace(label=label), ending_ids=[[1], [2]]) for label in (0, 1, 1)]
    exact = {"sum": [[-1.0, -2.0], [-1.0, -1.4], [-1.0, -9.0]], "pmi": [[1.0, 0.0]] * 3}
    quantized = {"sum": [[-1.0, -2.0], [-1.5, -1.4], [-1.0, -9.0]], "pmi": [[1.0, 0.5]] * 3}
    fidelity = compare_quantized(exact, quantized, items)
    assert fidelity.largest == 0.5 and fidelity.choices["pmi"].num_flips == 0
    assert "choices by sum that flip: 1 of 3; right 2, in fp32 1 (0 lost, 1 won)" in quantization_report(fidelity)
    check_flips(fidelity, 0.34)
    with pytest.raises(InputError, match="1 of 3 choices by sum are others .* more than --max-flips 0.3 allows; try"):
        check_flips(fidelity, 0.3)
    with pytest.raises(InputError, match="some log-probs are no numbers"):
        check_flips(replace(fidelity, largest=np.nan), 1.0)


def test_int8_reports_its_price(exports):
    sums = ("choices by sum that flip: ", "choices by pmi that flip: ", "0 to 0.5 nats: ")
    for part in (" MB instead of ", " at most, ", " on average, ", *sums):
        assert part in exports[1]


# ---- the standard decoder ----


def test_the_standard_decoder_gives_hugging_faces_logits(run_folder, exported, data_folder, tmp_path, encode):
    from optimum.onnxruntime import ORTModelForCausalLM

    flags = export_flags(run_folder, data_folder, tmp_path / "decoder", "--format", "causal-lm")
    assert export.main(flags) == 0
    decoder = ORTModelForCausalLM.from_pretrained(tmp_path / "decoder", provider="CPUExecutionProvider")
    model = AutoModelForCausalLM.from_pretrained(exported / "merged")
    input_ids = torch.tensor([encode(rows(1))[0].prompt_ids])
    with torch.no_grad():
        logits = model(input_ids=input_ids).logits
    found = decoder(input_ids=input_ids, attention_mask=torch.ones_like(input_ids)).logits
    torch.testing.assert_close(found, logits, rtol=1e-4, atol=1e-4)


# ---- flags and faults ----


def test_without_optimum_one_line_says_what_to_install(run_folder, data_folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optimum.onnxruntime", None)
    with pytest.raises(InputError, match="pip install optimum"):
        export.main(export_flags(run_folder, data_folder, tmp_path / "decoder", "--format", "causal-lm"))


@pytest.mark.parametrize(
    "flags",
    [
        ["--output", "model"],
        ["--format", "causal-lm"],
        ["--format", "causal-lm", "--output", "folder", "--quantize", "int8"],
        ["--quantize", "int4"],
        ["--output", "both/model.onnx", "--merged-dir", "both"],
        ["--format", "causal-lm", "--output", "both", "--merged-dir", "both/merged"],
    ],
)
def test_a_bad_flag_ends_with_2(flags):
    with pytest.raises(SystemExit) as stop:
        export.main(flags)
    assert stop.value.code == 2


def test_a_folder_is_refused_as_output_before_anything_is_loaded(tmp_path):
    (tmp_path / "model.onnx").mkdir()
    with pytest.raises(InputError, match="model.onnx: a folder; name a file with --output"):
        export.main(export_flags("none", "none", tmp_path / "model.onnx"))


def test_broken_weights_end_with_one_line(model_folder, data_folder, tmp_path):
    """As its user meets it: exit code 1, one line, no output."""
    model = AutoModelForCausalLM.from_pretrained(model_folder)
    model.model.layers[0].mlp.up_proj.weight.data[0, 0] = torch.nan
    model.save_pretrained(tmp_path / "broken")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "broken" / name).write_bytes((model_folder / name).read_bytes())
    flags = export_flags(tmp_path / "broken", data_folder, tmp_path / "model.onnx")
    result = run_main(export.main, *flags)
    assert result.returncode == 1 and result.stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in result.stderr and not list(tmp_path.glob("*.onnx"))
