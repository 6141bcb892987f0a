"""`coca doctor` on healthy and broken installations."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from checkpoints.hub_server import Hub

from cococli import doctor
from cococli.catalog import MODELS, SUGGESTED
from cococli.doctor import Check, without_secrets
from cococli.engines import choice

ROOT = Path(__file__).parents[2]


def test_healthy_installation_is_reported_without_secrets(
    coca, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = tmp_path / "ada"
    owner.mkdir()
    token, password = "hf_abcdefghij", "swordfish"
    Path(os.environ["COCA_CONFIG"]).write_text(f'[caption]\nbeams = 3\nlog-file = "{owner}/run.log"\n')
    with Hub() as hub:
        hub.add(MODELS[SUGGESTED].repository, {"open_clip_config.json": b"{}"})
        variables = {"HOME": owner, "HF_ENDPOINT": hub.url, "HF_TOKEN": token, "NO_PROXY": "127.0.0.1"}
        variables |= {"HTTPS_PROXY": f"http://me:{password}@proxy:3128", "all_proxy": f"me:{password}@proxy:3128"}
        for name, value in variables.items():
            monkeypatch.setenv(name, str(value))
        run = coca("doctor", "--json")
    assert (run.stderr, run.returncode) == ("", 0)
    report = json.loads(run.stdout)
    assert report["ok"] and "broken" not in statuses(report)
    assert not any(secret in run.stdout for secret in (str(owner), "ada", token, password))
    checks = named(report)
    assert checks["configuration", "caption --beams"]["value"] == "3 from config.toml"
    assert checks["configuration", "caption --log-file"]["value"] == '"~/run.log" from config.toml'
    assert checks["configuration", "caption --engine"]["value"] == '"torch" from COCA_ENGINE'
    assert checks["environment", "HF_TOKEN"]["value"] == "set"
    assert checks["environment", "HTTPS_PROXY"]["value"] == "http://...@proxy:3128"
    assert checks["environment", "all_proxy"]["value"] == "...@proxy:3128"
    assert checks["hub", hub.url]["status"] == "ok"
    assert checks["folders", "cache"]["value"].startswith(str(home))
    assert "on cpu: " in checks["engines", "torch"]["value"]
    assert "FFmpeg" in checks["decoders", "av"]["value"]
    assert checks["decoders", "sandbox"]["value"].startswith("readers ")


def named(report: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(check["section"], check["name"]): check for check in report["checks"]}


def statuses(report: dict[str, Any]) -> set[str]:
    return {check["status"] for check in report["checks"]}


def test_every_problem_comes_with_a_fix(coca, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache is not a folder, nothing answers, config.toml is wrong, and a decoder crashes."""
    (tmp_path / "cache").touch()
    (tmp_path / "decord.py").write_text("import os; os.abort()")
    Path(os.environ["COCA_CONFIG"]).write_text("beams = 'many'\n")
    monkeypatch.setenv("COCA_HOME", str(tmp_path / "cache" / "coca"))
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{tmp_path}")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    run = coca("doctor")
    assert (run.stderr, run.returncode) == ("", 1)
    lines = run.stdout.partition("\nproblems\n")[2].splitlines()
    fixes = dict(zip(lines[::2], lines[1::2], strict=True))
    parts = {problem.partition(",")[0]: (problem, fix.removeprefix("  fix: ")) for problem, fix in fixes.items()}
    assert parts.keys() == {"decoders", "folders", "hub", "configuration"}
    problem, fix = parts["decoders"]
    assert "decord: cannot be imported: it crashes (SIGABRT)" in problem
    assert fix == "pip install --force-reinstall decord"
    problem, fix = parts["folders"]
    assert "Not a directory" in problem and "set COCA_HOME to another folder" in fix
    problem, fix = parts["hub"]
    assert "cannot download from http://127.0.0.1:9" in problem and "check the network" in fix
    problem, fix = parts["configuration"]
    assert "beams: " in problem and fix.endswith("coca caption --help")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("cannot read /srv/ada/videos: closed", "cannot read /srv/.../videos: closed"),
        ("/home/ada, /home/adam/x", "~, /home/.../x"),
        ("/Users/eve/Library and /mnt/c/Users/eve", "/Users/.../Library and /mnt/c/Users/..."),
        ("https://me:pass@host/path and socks5://me@other", "https://...@host/path and socks5://...@other"),
        ("token hf_abcdefghijkl, HF_HOME", "token hf_..., HF_HOME"),
        ("my own-token here", "my ... here"),
        ("/home2/adaptive", "/home2/adaptive"),
    ],
)
def test_secrets_are_removed(text: str, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.setenv("HF_TOKEN", "own-token")
    assert without_secrets(text) == shown


def test_gpu_without_matching_torch_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("torch finds a GPU here")
    (tmp_path / "driver").touch()
    monkeypatch.setattr(choice, "_DRIVERS", (str(tmp_path / "driver"),))
    monkeypatch.setattr(doctor.sys, "platform", "linux")
    _, gpu = doctor._devices({"torch": doctor._Import(torch.__version__, "")})
    assert (gpu.status, gpu.name) == ("problem", "gpu")
    assert "install PyTorch for this GPU" in gpu.fix


def test_little_space_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "LITTLE_SPACE", 1 << 60)
    check = doctor._writable("cache", tmp_path / "new")
    assert check.status == "problem" and check.value.startswith(f"{tmp_path / 'new'}, not there yet, ")


def test_failing_section_does_not_stop_the_others() -> None:
    def fails() -> Any:
        yield Check("devices", "cpu", "2 cores")
        import not_there  # noqa: F401

    first, error = doctor._completed("devices", fails)
    assert first.status == "ok"
    assert (error.status, error.fix) == ("broken", "pip install not_there")


def test_slow_import_is_not_called_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_IMPORT_TIMEOUT", 0.0)
    found = doctor._import("torch")
    assert found.error == "was not imported within 0 s, which also happens on a busy machine"
