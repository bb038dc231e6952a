"""libscore as another program meets it: installed, found, linked, and giving the bytes that the program gives."""

import ctypes
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import ROOT, SCORE, rows, write_jsonl

sys.path.insert(0, str(ROOT / "docs"))
from libscore_example import open_library  # noqa: E402

BUILD = ROOT / "cpp_scorer" / "build"
FUNCTIONS = {"score_open", "score_json", "score_free", "score_error", "score_version", "score_close"}
CONSUMER = r"""
#include <score.h>
#include <stdio.h>
#include <string.h>

int main(int argc, char **argv) {
  static char questions[1 << 20];
  size_t size = fread(questions, 1, sizeof questions, stdin);
  score_model *model = score_open(argc > 1 ? argv[1] : NULL, NULL, NULL, 1);
  if (!model) return fprintf(stderr, "%s\n", score_error()), 1;
  char *predictions = score_json(model, questions, size);
  if (!predictions) return fprintf(stderr, "%s\n", score_error()), 1;
  fputs(predictions, stdout);
  score_free(predictions);
  score_close(model);
  return 0;
}
"""


@pytest.fixture(scope="session")
def installed(scorer, tmp_path_factory) -> Path:
    """What cmake --install makes, at another place than it was installed to."""
    folder = tmp_path_factory.mktemp("prefix")
    cmake = shutil.which("cmake", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    subprocess.run([cmake, "--install", BUILD, "--prefix", folder / "before"], check=True, stdout=subprocess.DEVNULL)
    return (folder / "before").rename(folder / "after")


@pytest.fixture(scope="session")
def library(installed) -> ctypes.CDLL:
    return open_library(str(installed / "lib" / "libscore.so"))


@pytest.fixture(scope="session")
def questions(tmp_path_factory) -> Path:
    broken = [{"id": "broken", "context": "c", "endings": ["one"]}]
    return write_jsonl(tmp_path_factory.mktemp("questions") / "q.jsonl", rows(9) + broken + rows(5, 3, start=40))


@pytest.fixture(scope="session")
def piped(onnx_model, scorer, questions) -> str:
    """What the program says of them."""
    command = [SCORE, "--model", onnx_model, "--threads", "1", "--input", questions]
    return subprocess.run(command, capture_output=True, text=True).stdout


def run(*command, **options) -> subprocess.CompletedProcess:
    result = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=300, **options)
    assert result.returncode == 0, result.stderr
    return result


def test_the_example_gives_the_programs_bytes(installed, onnx_model, questions, piped):
    example = ROOT / "docs" / "libscore_example.py"
    with questions.open() as file:
        result = run(sys.executable, example, installed / "lib" / "libscore.so", onnx_model, stdin=file)
    assert result.stdout == piped and len(piped.splitlines()) == 15 and '"error"' in piped


def test_nothing_but_the_headers_functions_can_be_linked(installed):
    table = run("nm", "-D", "--defined-only", installed / "lib" / "libscore.so").stdout
    assert {line.split()[-1].split("@")[0] for line in table.splitlines()} == FUNCTIONS | {"SCORE_0"}


def test_a_c_program_builds_with_cmakes_package(installed, onnx_model, questions, piped, tmp_path):
    (tmp_path / "main.c").write_text(CONSUMER)
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.16)\nproject(consumer C)\nfind_package(score 0.1 REQUIRED)\n"
        "add_executable(consumer main.c)\ntarget_link_libraries(consumer PRIVATE score::score)\n"
    )
    cmake = shutil.which("cmake", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    run(cmake, "-S", tmp_path, "-B", tmp_path / "build", f"-DCMAKE_PREFIX_PATH={installed}")
    run(cmake, "--build", tmp_path / "build")
    with questions.open() as file:
        assert run(tmp_path / "build" / "consumer", onnx_model, stdin=file).stdout == piped


def test_a_c_program_builds_with_what_pkg_config_says(installed, onnx_model, questions, piped, tmp_path):
    (tmp_path / "main.c").write_text(CONSUMER)
    environment = os.environ | {"PKG_CONFIG_PATH": str(installed / "lib" / "pkgconfig")}
    if pkg_config := shutil.which("pkg-config"):
        flags = run(pkg_config, "--cflags", "--libs", "score", env=environment).stdout.split()
    else:  # the file by hand: its one variable is the folder that it lies in
        text = (installed / "lib" / "pkgconfig" / "score.pc").read_text()
        fields = dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)
        line = f"{fields['Cflags']} {fields['Libs']}"
        for name, folder in (("libdir", "lib"), ("includedir", "include")):
            line = line.replace(f"${{{name}}}", str(installed / folder))
        flags = line.split()
    library_path = {"LD_LIBRARY_PATH": str(installed / "lib")}
    run("cc", "-Wall", "-Werror", "-o", tmp_path / "consumer", tmp_path / "main.c", *flags)
    with questions.open() as file:
        result = run(tmp_path / "consumer", onnx_model, stdin=file, env=os.environ | library_path)
    assert result.stdout == piped


def test_many_threads_share_a_model(library, onnx_model, questions, piped):
    model = library.score_open(str(onnx_model).encode(), None, b"sum", 1)
    text = questions.read_bytes()

    def score(_) -> str:
        found = library.score_json(model, text, len(text))
        predictions = ctypes.string_at(found).decode()
        library.score_free(found)
        return predictions

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(score, range(12))) == {piped}
    library.score_close(model)


def test_more_rows_than_are_looked_at_at_once_keep_their_places(library, onnx_model, tmp_path):
    file = write_jsonl(
        tmp_path / "q.jsonl", [{"context": f"c {k % 7}", "endings": ["one", "two"]} for k in range(1100)]
    )
    command = [SCORE, "--model", onnx_model, "--threads", "1", "--input", file]
    model, text = library.score_open(str(onnx_model).encode(), None, None, 1), file.read_bytes()
    found = library.score_json(model, text, len(text))
    assert ctypes.string_at(found).decode() == run(*command).stdout
    library.score_free(found)
    library.score_close(model)


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ((b"missing.onnx", None, None, 1), "missing.onnx: cannot be"),
        ((None, None, None, 1), "the model's path is missing"),
        ((b"MODEL", None, b"best", 1), "score takes sum, mean or pmi, not 'best'"),
        ((b"MODEL", None, None, -1), "threads takes a number from 1"),
        ((b"MODEL", b"MODEL", b"pmi", 1), "score pmi takes no reference"),
    ],
)
def test_what_cannot_be_opened_is_named(library, onnx_model, arguments, what):
    paths = [str(onnx_model).encode() if value == b"MODEL" else value for value in arguments]
    assert library.score_open(*paths) is None
    assert what in library.score_error().decode() and b"\n" not in library.score_error()


def test_a_text_without_questions_is_an_error_and_the_model_stays_good(library, onnx_model, piped, questions):
    model = library.score_open(str(onnx_model).encode(), None, None, 1)
    assert library.score_json(model, b" \n\n", 3) is None
    assert library.score_error() == b"there are no questions in the text"
    found = library.score_json(model, questions.read_bytes(), questions.stat().st_size)
    assert ctypes.string_at(found).decode() == piped
    library.score_free(found)
    library.score_close(model)


def test_nothing_is_given_back_or_closed_twice(library):
    library.score_free(None)
    library.score_close(None)
    library.score_version.restype = ctypes.c_char_p
    assert library.score_version() == b"0.1.0"
