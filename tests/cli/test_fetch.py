"""`coca fetch`, as a user runs it."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from checkpoints.hub_server import Hub, know_only
from checkpoints.open_clip_state import save_as_mindone
from cli.fork_server import start
from safetensors.torch import load_file, save_file

TINY = Path(__file__).parents[1] / "data" / "goldens" / "tiny"
SHAPES = Path(__file__).parents[2] / "examples" / "moves.mp4"


class Demanding(BaseHTTPRequestHandler):
    """A proxy that asks for a password."""

    def do_CONNECT(self) -> None:
        self.send_response(407)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET = do_CONNECT

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def proxy() -> Iterator[str]:
    """The address of a proxy that asks for a password, without its scheme."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Demanding) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub() as server:
        know_only(server, tmp_path / "hf", monkeypatch)
        weights, config = (TINY / "open_clip_pytorch_model.bin").read_bytes(), (TINY / "config.json").read_bytes()
        server.add("org/coca", {"open_clip_pytorch_model.bin": weights, "open_clip_config.json": config})
        yield server


def started(*arguments: object) -> "subprocess.Popen[str]":
    return start("fetch", "org/coca", *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_fetch_prints_name_and_summary(coca, server: Hub, home: Path) -> None:
    run = coca("fetch", "org/coca", "--name", "mine")
    assert (run.stdout, run.returncode) == ("mine\n", 0)
    assert run.stderr.splitlines()[-1] == "mine is ready: 1.5 MB"
    again = coca("fetch", "org/coca", "--name", "mine", "--json")
    assert again.stderr.splitlines()[-1] == "mine was fetched before: 1.5 MB"
    facts = json.loads(again.stdout)
    assert (facts["name"], facts["added"], facts["path"]) == ("mine", False, str(home / "models" / "mine"))
    assert facts["source"]["repository"] == "org/coca"


def test_caption_uses_the_fetched_model(coca, home: Path, tmp_path: Path) -> None:
    """The bundled model, exported as open_clip's, fetched from that file, captions as it does itself."""
    exported = tmp_path / "shapes.safetensors"
    assert coca("convert", "shapes", exported, "--to", "open_clip").returncode == 0
    assert coca("fetch", exported, "--name", "mine", "--quiet").returncode == 0
    ours = coca("caption", SHAPES, "--quiet")
    theirs = coca("caption", SHAPES, "--quiet", "--model", "shapes")
    assert json.loads(ours.stdout) == json.loads(theirs.stdout) | {"model": "mine"}


def test_checkpoint_and_config_of_mindone_are_read(coca, home: Path, tmp_path: Path) -> None:
    """The bundled model under MindONE's names captions as it does itself."""
    assert coca("convert", "shapes", tmp_path / "a.safetensors", "--to", "open_clip").returncode == 0
    save_as_mindone(load_file(tmp_path / "a.safetensors"), tmp_path / "coca_model.ckpt")
    model = json.loads((tmp_path / "open_clip_config.json").read_text())["model_cfg"]
    (tmp_path / "open_clip_config.json").unlink()
    (tmp_path / "coca.yaml").write_text(json.dumps(model).removesuffix("}") + ",}")
    fetched = coca("fetch", tmp_path / "coca_model.ckpt", "--name", "mine", "--config", tmp_path / "coca.yaml")
    assert (fetched.stdout, fetched.returncode) == ("mine\n", 0)
    ours = coca("caption", SHAPES, "--quiet")
    theirs = coca("caption", SHAPES, "--quiet", "--model", "shapes")
    assert json.loads(ours.stdout) == json.loads(theirs.stdout) | {"model": "mine"}


def test_missing_model_names_fetch_command(coca) -> None:
    run = coca("caption", SHAPES)
    assert run.stderr == (
        "error: no model is here yet\n"
        "hint: coca fetch vit-l-14-coco (2.55 GB); or try the bundled demo: --model shapes\n"
    )
    assert (run.stdout, run.returncode) == ("", 3)


def test_damaged_model_is_not_reported_as_missing(coca, home: Path) -> None:
    assert coca("fetch", TINY / "open_clip_pytorch_model.bin", "--name", "mine").returncode == 0
    os.truncate(home / "models" / "mine" / "model.ckpt", 12)
    run = coca("caption", SHAPES)
    assert (run.stdout, run.returncode) == ("", 3)
    assert run.stderr.startswith("error: the model mine is damaged: model.ckpt has 12 bytes, not ")
    assert "--name mine --force" in run.stderr


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_killed_fetch_resumes(coca, server: Hub, home: Path, sent: signal.Signals) -> None:
    server.piece, server.pause = 300_000, 600.0  # only the first piece arrives
    run = started()
    while not any(path.stat().st_size > 200_000 for path in home.rglob("*.incomplete")):
        assert run.poll() is None
        time.sleep(0.01)
    run.send_signal(sent)
    _, told = run.communicate()
    assert run.returncode == (-9 if sent == signal.SIGKILL else 130)
    assert sent == signal.SIGKILL or "error: interrupted" in told
    assert not (home / "models" / "org--coca").exists()
    server.pause = 0.0
    assert coca("fetch", "org/coca").stdout == "org--coca\n"
    first = next(made.headers["range"] for made in server.downloads if "range" in made.headers)
    assert int(first.removeprefix("bytes=").removesuffix("-")) > 200_000
    assert coca("models", "verify").stdout == "org--coca: intact\n"


def test_concurrent_fetches_add_one_model(server: Hub) -> None:
    server.piece, server.pause = 100_000, 0.05
    runs = [started(), started()]
    told = [run.communicate() for run in runs]
    assert [run.returncode for run in runs] == [0, 0]
    assert [out for out, _ in told] == ["org--coca\n"] * 2
    gets = [made for made in server.downloads if made.method == "GET" and made.path.endswith(".bin")]
    assert len(gets) == 1
    assert sorted("was fetched before" in notes for _, notes in told) == [False, True]


def test_cache_at_a_file_is_an_error(coca, server: Hub, tmp_path: Path, monkeypatch) -> None:
    place = tmp_path / "file"
    place.touch()
    monkeypatch.setenv("COCA_HOME", str(place))
    run = coca("fetch", "org/coca")
    assert (run.returncode, run.stdout) == (3, "")
    assert run.stderr == f"error: cannot write to {place}: Not a directory\nhint: set COCA_HOME to another folder\n"


def test_proxy_problems_are_named(coca, proxy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asks = f"the proxy {{scheme}}{proxy} ({{variable}}) asks for a user name and password (407)"
    wrong = "https_proxy is not the address of a proxy: "
    (tmp_path / "socksio.py").write_text("raise ImportError")
    without = f"{tmp_path}{os.pathsep}{os.environ['PYTHONPATH']}"
    cases = [
        ({"HTTPS_PROXY": f"http://me:secret@{proxy}"}, asks.format(scheme="http://", variable="HTTPS_PROXY")),
        ({"all_proxy": f"me:secret@{proxy}"}, asks.format(scheme="", variable="all_proxy")),
        ({"http_proxy": proxy, "HF_ENDPOINT": "http://a.test"}, asks.format(scheme="", variable="http_proxy")),
        ({"https_proxy": "ftp://me:secret@a.test"}, f"{wrong}ftp://a.test"),
        ({"https_proxy": "http://me:secret@a.test:port"}, f"{wrong}http://a.test:port"),
        (
            {"ALL_PROXY": "socks5://a.test", "PYTHONPATH": without},
            "a SOCKS proxy is set, which needs the package socksio",
        ),
    ]
    for variable in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(variable, raising=False)
        monkeypatch.delenv(variable.upper(), raising=False)
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    for environment, problem in cases:
        run = coca("fetch", "org/coca", env={**os.environ, **environment})
        error, hint = run.stderr.splitlines()
        assert error.startswith("error: ") and problem in error, environment
        assert hint.startswith("hint: "), environment
        assert "secret" not in run.stderr
        assert (run.stdout, run.returncode) == ("", 3)


def test_pasted_names_resolve_to_the_model(coca, server: Hub) -> None:
    coco = "laion/mscoco_finetuned_CoCa-ViT-L-14-laion2B-s13B-b90k"
    told = {
        "coca_ViT-L-14/mscoco_finetuned_laion2b_s13b_b90k": f"{coco} is not on the hub",
        "hf-hub:ORG/other": "ORG/other is not on the hub",
        "https://huggingface.co/datasets/org/coca": "is not the address of a model",
        "https://example.com/epoch_3.pt": "is not an address on the model hub",
        "vit-l-15": "close: vit-l-14",
    }
    for name, said in told.items():
        run = coca("fetch", name)
        assert said in run.stderr
        assert run.returncode in (2, 3)
    run = coca("fetch", f"{server.url}/org/coca/blob/main/open_clip_pytorch_model.bin?download=true")
    assert (run.stdout, run.returncode) == ("org--coca--open_clip_pytorch_model.bin\n", 0)


def test_folders_and_shards_are_fetched(coca, server: Hub, tmp_path: Path) -> None:
    state, config = torch.load(TINY / "open_clip_pytorch_model.bin", weights_only=True), TINY / "config.json"
    folder, names = tmp_path / "my model", sorted(state)
    folder.mkdir()
    shards = {f"model-0000{part + 1}-of-00002.safetensors": names[part::2] for part in range(2)}
    for file, held in shards.items():
        save_file({name: state[name].contiguous() for name in held}, folder / file)
    weight_map = {name: file for file, held in shards.items() for name in held}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    shutil.copy(config, folder / "open_clip_config.json")
    server.add("org/sharded", {path.name: path.read_bytes() for path in folder.iterdir()})
    assert coca("fetch", "org/sharded").stdout == "org--sharded\n"
    assert coca("fetch", folder).stdout == "my-model\n"
    assert coca("fetch", folder / "model-00002-of-00002.safetensors", "--name", "again").returncode == 0
    (folder / "model-00002-of-00002.safetensors").unlink()
    assert "no such file" in coca("fetch", folder, "--force").stderr

    several = tmp_path / "several runs"
    several.mkdir()
    for name in ("epoch_1.pt", "epoch_2.pt"):
        torch.save(state, several / name)
    torch.save({"lr": 1}, several / "optimizer.pt")
    shutil.copy(config, several)
    for command in ("fetch", "convert"):
        run = coca(command, several)
        assert f"{several} is a folder with 2 checkpoints" in run.stderr
        hint = run.stderr.splitlines()[-1].partition("the newest: coca ")[2]
        assert coca(*shlex.split(hint)).returncode == 0
