"""The image and the unit, line by line: no container engine is at hand here, and so the image is never built. What
their lines name is there, what they run is what other tests run, and the image's health check is run as it stands."""

import configparser
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, SCORE
from service import serving

pytestmark = pytest.mark.usefixtures("scorer")
PACKAGING = ROOT / "packaging"
CMAKE = shutil.which("cmake", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
# Of debian:trixie-slim itself: C and C++ libraries, which apt needs, and the loader.
IN_THE_IMAGE = {f"lib{name}" for name in ("c.so.6", "m.so.6", "stdc++.so.6", "gcc_s.so.1")}
IN_THE_IMAGE |= {f"lib{name}" for name in ("pthread.so.0", "dl.so.2", "rt.so.1")}


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"\\\n\s*", "", (PACKAGING / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [tuple(line.split(" ", 1)) for line in lines]


def stages() -> list[list[tuple[str, str]]]:
    found = []
    for instruction in instructions():
        if instruction[0] == "FROM":
            found.append([])
        found[-1].append(instruction)
    return found


def test_two_builds_wait_for_each_other():
    """Workers of the tests build at once, and one would link what the other has half written."""
    with (ROOT / "cpp_scorer" / "build" / ".lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        other = subprocess.Popen([ROOT / "tools" / "build_scorer.sh"], stdout=subprocess.DEVNULL)
        with pytest.raises(subprocess.TimeoutExpired):
            other.wait(1)
    assert other.wait() == 0


def copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("build*", "score"))
    else:
        shutil.copy(source, target)


def help_text() -> str:
    return subprocess.run([SCORE, "--help"], capture_output=True, text=True, check=True).stdout


def flags_of_help() -> set[str]:
    return set(re.findall(r"--[a-z-]+", help_text()))


def test_there_are_two_stages_of_the_slim_debian_whose_headers_the_build_takes():
    suite = re.search(r"^debian_suite=(\w+)", (ROOT / "tools" / "get_native_deps.sh").read_text(), re.MULTILINE)[1]
    build, run = stages()
    assert build[0] == ("FROM", f"debian:{suite}-slim AS build") and run[0] == ("FROM", f"debian:{suite}-slim")
    assert [name for name, _ in build] == ["FROM", "RUN", "WORKDIR", "COPY", "COPY", "RUN"]
    assert [name for name, _ in run] == ["FROM", "COPY", "COPY", "USER", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT", "CMD"]


def test_what_is_copied_is_tracked_and_let_through_and_enough_to_build(tmp_path):
    ignored = (PACKAGING / "Dockerfile.dockerignore").read_text().splitlines()
    assert ignored[0] == "*"
    for name, value in stages()[0] + stages()[1][:2]:
        if name != "COPY":
            continue
        *sources, target = value.split()
        for source in sources:
            assert subprocess.run(["git", "ls-files", "--error-unmatch", source], cwd=ROOT).returncode == 0
            assert f"!{source}" in ignored
            if not target.startswith("/"):  # of the first stage
                copy(ROOT / source, tmp_path / source)
    (tmp_path / ".deps").symlink_to(ROOT / ".deps")  # what the script would fetch
    configured = [CMAKE, "-S", tmp_path / "cpp_scorer", "-B", tmp_path / "build"]
    result = subprocess.run([*map(str, configured)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert shutil.which("sh") and (tmp_path / "tools" / "build_scorer.sh").stat().st_mode & 0o111


def test_it_builds_and_installs_as_the_documents_say():
    assert stages()[0][-1] == (
        "RUN",
        "tools/build_scorer.sh && cmake --install cpp_scorer/build --prefix /opt/score --strip",
    )


def test_the_second_stage_has_every_library_the_program_loads(tmp_path):
    install = [CMAKE, "--install", ROOT / "cpp_scorer" / "build", "--prefix", tmp_path]
    subprocess.run(install, check=True, capture_output=True)
    for file in (tmp_path / "bin" / "score", *(tmp_path / "lib" / "score").glob("*.so*")):
        dynamic = subprocess.run(["readelf", "-d", file], capture_output=True, text=True, check=True).stdout
        needed = set(re.findall(r"NEEDED.*\[(.*)\]", dynamic))
        own = {path.name for path in (tmp_path / "lib" / "score").iterdir()}
        assert {name for name in needed - own - IN_THE_IMAGE if not name.startswith("ld-linux")} == set(), file


def test_it_runs_as_nobody_with_flags_that_exist():
    run = dict(stages()[1])
    user, group = map(int, run["USER"].split(":"))
    assert user > 0 and group > 0
    entry, command = json.loads(run["ENTRYPOINT"]), json.loads(run["CMD"])
    assert entry[0] == "/opt/score/bin/score"
    assert {word for word in entry + command if word.startswith("--")} <= flags_of_help()
    assert entry[entry.index("--serve") + 1] == f"0.0.0.0:{run['EXPOSE']}"


def test_the_health_check_tells_a_service_from_none(onnx_model, tmp_path):
    command = json.loads(dict(stages()[1])["HEALTHCHECK"].split("CMD ", 1)[1])
    with serving(onnx_model, tmp_path) as service:
        at_port = [word.replace("/8080", f"/{service.port}") for word in command]
        assert at_port != command
        assert subprocess.run(at_port, timeout=10).returncode == 0
    assert subprocess.run(at_port, timeout=10, stderr=subprocess.DEVNULL).returncode != 0


def test_the_unit_names_flags_that_exist_and_outlasts_the_drain():
    unit = configparser.ConfigParser(interpolation=None, strict=True)
    unit.optionxform = str
    unit.read(PACKAGING / "score.service")
    service = unit["Service"]
    words = service["ExecStart"].split()
    assert words[0] == json.loads(dict(stages()[1])["ENTRYPOINT"])[0]
    assert {word for word in words if word.startswith("--")} <= flags_of_help()
    assert words[words.index("--serve") + 1].startswith("127.0.0.1:")
    assert service["LoadCredential"].split(":")[0] == Path(words[words.index("--token-file") + 1]).name
    drain = re.search(r"--drain N .*\(default (\d+)\)", help_text())
    assert int(service["TimeoutStopSec"]) > int(drain[1])
    for name, value in {"DynamicUser": "yes", "NoNewPrivileges": "yes", "ProtectSystem": "strict"}.items():
        assert service[name] == value
    assert unit["Install"]["WantedBy"] == "multi-user.target"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
def test_systemd_knows_every_line_of_the_unit(tmp_path):
    text = (PACKAGING / "score.service").read_text().replace("/opt/score/bin/score", str(SCORE))
    (tmp_path / "score.service").write_text(text)
    result = subprocess.run(["systemd-analyze", "verify", tmp_path / "score.service"], capture_output=True, text=True)
    own = [line for line in result.stderr.splitlines() if "score.service" in line]
    assert own == [] or all("Unknown key" not in line and "Failed to parse" not in line for line in own)
