"""Foreign checkpoints: what is read, and what is refused in one line."""

import os
import pickle
import resource
import struct
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints.open_clip_state import save

from cococli.checkpoints import ckpt
from cococli.checkpoints.source import find_checkpoint, is_ckpt, open_checkpoint
from cococli.errors import ModelError


def read(path: Path) -> dict[str, np.ndarray]:
    with open_checkpoint(path) as tensors:
        return {
            tensor.name: np.concatenate([part.reshape(-1).copy() for part in tensor.parts(0, tensor.rows)])
            for tensor in tensors
        }


def refused(path: Path) -> ModelError:
    with pytest.raises(ModelError) as caught, open_checkpoint(path):
        pass
    assert "\n" not in caught.value.message
    return caught.value


def tensors(dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """A matrix, a column of one and a scalar."""
    matrix = torch.randn(50, 3).to(dtype)
    return {"a": matrix, "b": matrix.t()[1], "c": torch.tensor(2.0, dtype=dtype)}


def assert_read(path: Path, state: dict[str, torch.Tensor]) -> None:
    """Every number exactly, in the type it is stored in; bfloat16, which numpy does not know, as float32."""
    values = read(path)
    assert values.keys() == state.keys()
    for name, tensor in state.items():
        wanted = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).reshape(-1).numpy()
        assert (values[name].dtype, values[name].tobytes()) == (wanted.dtype, wanted.tobytes()), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("legacy", [False, True])
def test_pickles_of_both_formats_are_read_exactly(tmp_path: Path, dtype: torch.dtype, legacy: bool) -> None:
    state = tensors(dtype)
    torch.save(state, tmp_path / "a.bin", _use_new_zipfile_serialization=not legacy)
    assert_read(tmp_path / "a.bin", state)


@pytest.mark.parametrize("name", ["a.safetensors", "a.bin"])
def test_truncation_while_reading_is_an_error(tmp_path: Path, name: str) -> None:
    path = save({"a": torch.ones(50_000), "b": torch.ones(50_000)}, tmp_path / name)
    with open_checkpoint(path) as tensors:
        os.truncate(path, 4096)
        with pytest.raises(ModelError, match="the checkpoint was truncated while it was read"):
            [*tensors[1].parts(0, 50_000)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_safetensors_are_read_exactly(tmp_path: Path, dtype: torch.dtype) -> None:
    from safetensors.torch import save_file

    state = {name: tensor.contiguous() for name, tensor in tensors(dtype).items()}
    save_file(state, tmp_path / "a.safetensors")
    assert_read(tmp_path / "a.safetensors", state)


@pytest.mark.parametrize("name", ["a.ckpt", "renamed"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_ckpt_is_recognized_by_content(tmp_path: Path, name: str, dtype: torch.dtype) -> None:
    state = tensors(dtype)
    with (tmp_path / name).open("wb") as file:
        for key, tensor in state.items():
            ckpt.write(file, key, tuple(tensor.shape), [tensor.numpy()], str(dtype).removeprefix("torch."))
    assert is_ckpt(tmp_path / name)
    assert_read(tmp_path / name, state)


def test_split_parameters_of_mindspore_are_read(tmp_path: Path) -> None:
    from mindspore.train.checkpoint_pb2 import Checkpoint

    array = np.arange(1 << 20, dtype=np.float32)
    message = Checkpoint()
    for half in np.split(array, 2):  # as MindSpore splits what exceeds 512 MB
        value = message.value.add(tag="a")
        value.tensor.dims.extend(array.shape)
        value.tensor.tensor_type = "Float32"
        value.tensor.tensor_content = half.tobytes()
    (tmp_path / "a.ckpt").write_bytes(message.SerializeToString())
    with open_checkpoint(tmp_path / "a.ckpt") as (tensor,):
        for _ in range(2):  # joined, it lies in no file that its memory could be read from again
            assert np.array_equal(np.concatenate([part.copy() for part in tensor.parts(0, tensor.rows)]), array)


@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
def test_other_files_are_not_taken_for_ckpt(tmp_path: Path, suffix: str) -> None:
    assert not is_ckpt(save({"a": torch.ones(1)}, tmp_path / f"a{suffix}"))


def test_a_damaged_ckpt_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "a.ckpt").open("wb") as file:
        ckpt.write(file, "a", (9,), [np.ones(9)])
    (tmp_path / "a.ckpt").write_bytes((tmp_path / "a.ckpt").read_bytes()[:-1])
    assert "not a MindSpore checkpoint, or is damaged" in refused(tmp_path / "a.ckpt").message


def test_large_tensors_are_read_in_parts(tmp_path: Path) -> None:
    tensor = torch.randn(3000, 4096)  # 49 MB
    torch.save({"a": tensor}, tmp_path / "a.bin")
    with open_checkpoint(tmp_path / "a.bin") as (source,):
        parts = [part.copy() for part in source.parts(500, 3000)]
    assert len(parts) == 3
    assert np.array_equal(np.concatenate(parts), tensor[500:].numpy())


def test_parameters_with_gradients_are_read(tmp_path: Path) -> None:
    torch.save({"a": torch.nn.Parameter(torch.ones(2))}, tmp_path / "a.bin")
    assert read(tmp_path / "a.bin")["a"].tolist() == [1.0, 1.0]


class Intruder:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("zipped", [False, True])
def test_code_in_pickle_is_never_run(tmp_path: Path, zipped: bool) -> None:
    trace = tmp_path / "trace"
    content = {"a": torch.ones(1), "b": Intruder(trace)}
    torch.save(content, tmp_path / "a.bin", _use_new_zipfile_serialization=zipped)
    assert "holds code (posix.mkdir)" in refused(tmp_path / "a.bin").message
    assert not trace.exists()


def test_code_in_a_plain_pickle_is_never_run(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(pickle.dumps(Intruder(tmp_path / "trace")))
    refused(tmp_path / "a.pt")
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", "git-lfs pointer"),
        (b"\n<!doctype html><html>", "web page"),
        (b"\n\r\n\n<html>", "web page"),
        (b"hello", "truncated or not a checkpoint"),
        (b"PK\x03\x04 and no more", "truncated or not a checkpoint"),
        (b"\x80\x02}q\x00.", "truncated or not a checkpoint"),
        (np.random.default_rng(0).bytes(4096), "truncated or not"),
        (b"X\xff\xff\xff\x97 and not 2.5 GB of text", "takes more memory"),
    ],
)
def test_other_files_are_refused_on_one_line(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "a.bin").write_bytes(content)
    assert reason in refused(tmp_path / "a.bin").message


def test_a_zip_archive_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert "not a checkpoint" in refused(tmp_path / "a.pt").message


@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
def test_a_truncated_file_is_refused(tmp_path: Path, suffix: str) -> None:
    from safetensors.torch import save_file

    path = tmp_path / f"a{suffix}"
    state = {"a": torch.ones(1000)}
    torch.save(state, path) if suffix == ".bin" else save_file(state, path)
    whole = path.read_bytes()
    for length in (9, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert "truncated" in refused(path).message


@pytest.mark.parametrize(
    "header",
    [
        b'{"a":{"dtype":"F32","shape":[1000],"data_offsets":[0,4000]}}',  # more than the file holds
        b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,8]}}',
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}',
        b'{"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}}',
        b"{",
    ],
)
def test_a_safetensors_header_that_lies_is_refused(tmp_path: Path, header: bytes) -> None:
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    assert "safetensors" in refused(tmp_path / "a.safetensors").message


def test_a_safetensors_header_of_impossible_length_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", 1 << 60) + b'{"a":1}')
    assert "safetensors" in refused(tmp_path / "a.safetensors").message


@pytest.mark.parametrize("content", [torch.ones(2), [1, 2], {}, {"state_dict": {}}, {"epoch": 1, "model": {}}])
def test_a_pickle_without_a_state_dict_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "a.pt")
    assert any(words in refused(tmp_path / "a.pt").message for words in ("state dict", "no tensors"))


@pytest.mark.filterwarnings("ignore:.torch.jit")
def test_a_torchscript_program_is_named(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), tmp_path / "a.pt")
    assert "TorchScript" in refused(tmp_path / "a.pt").message


def test_checkpoints_are_found_in_folders(tmp_path: Path) -> None:
    for name in ("optimizer.bin", "training_args.bin", "model-00001-of-00002.bin", ".hidden.bin", "notes.txt"):
        (tmp_path / name).touch()
    with pytest.raises(ModelError, match="is a folder without a checkpoint"):
        find_checkpoint(tmp_path, "coca convert")
    for name in ("made.ckpt", "epoch 1.pt", "open_clip_model.safetensors"):  # each is preferred to those before
        (tmp_path / name).touch()
        assert find_checkpoint(tmp_path, "coca convert") == tmp_path / name
    for name in ("open_clip_model.safetensors", "epoch 2.pt"):
        (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / "epoch 2.pt").touch()
    os.utime(tmp_path / "epoch 1.pt", (1, 1))
    with pytest.raises(ModelError, match="is a folder with 2 checkpoints") as caught:
        find_checkpoint(tmp_path, "coca fetch")
    assert caught.value.hint.endswith(f"coca fetch '{tmp_path / 'epoch 2.pt'}'")
    (tmp_path / "model.bin.index.json").touch()
    assert find_checkpoint(tmp_path / "model-00001-of-00002.bin", "coca fetch") == tmp_path / "model.bin.index.json"


def test_missing_file_is_an_error(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "none.bin").message
    assert "File name too long" in refused(Path("x" * 5000)).message


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.bin")
    assert "no such file" in refused(tmp_path / "a.bin").message


# What training programs put around weights

NAMES = ("text_decoder.text_projection", "visual.proj", "visual.conv1.weight", "logit_scale")
PREFIXES = ("module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model.", "model.module.model.", "net.")


def coca_like(prefix: str = "") -> dict[str, torch.Tensor]:
    return {prefix + name: torch.tensor(float(value)) for value, name in enumerate(NAMES)}


@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes_of_all_names_are_removed(tmp_path: Path, prefix: str) -> None:
    torch.save(coca_like(prefix), tmp_path / "a.pt")
    assert_read(tmp_path / "a.pt", coca_like())
    assert_read(save(coca_like(prefix), tmp_path / "a.safetensors"), coca_like())


def test_wrapped_modules_and_averages_are_unwrapped(tmp_path: Path) -> None:
    state = {f"module.{name.replace('.', '._orig_mod.', 1)}": tensor for name, tensor in coca_like().items()}
    torch.save({**state, "n_averaged": torch.tensor(3)}, tmp_path / "a.pt")
    assert_read(tmp_path / "a.pt", coca_like())


@pytest.mark.parametrize("keys", [("state_dict",), ("model",), ("model_state_dict",), ("module",), ("model", "ema")])
def test_state_dicts_are_found_among_other_things(tmp_path: Path, keys: tuple[str, ...]) -> None:
    saved: dict[str, object] = coca_like("module.")
    for key in reversed(keys):
        saved = {"epoch": 3, "optimizer": {"state": {0: {"step": 1}}}, "ema": None, key: saved}
    torch.save(saved, tmp_path / "a.pt")
    assert_read(tmp_path / "a.pt", coca_like())


def test_weights_before_averaging_are_preferred(tmp_path: Path) -> None:
    averaged = {name: -tensor for name, tensor in coca_like().items()}
    torch.save({"state_dict_ema": averaged, "model": {"lr": 0.1}, "state_dict": coca_like()}, tmp_path / "a.pt")
    assert_read(tmp_path / "a.pt", coca_like())


def test_prefixes_of_some_names_stay(tmp_path: Path) -> None:
    state = {**coca_like(), "module.other": torch.tensor(1.0)}
    torch.save(state, tmp_path / "a.pt")
    assert_read(tmp_path / "a.pt", state)


# Shards

INDEXES = {
    "not JSON": ("{", "is not valid JSON"),
    "nested deeply": ("[" * 100_000, "nested too deeply"),
    "a list": ("[]", "weight_map in"),
    "a number for a file": ('{"weight_map": {"a": 1}}', "'a': input should be a valid string"),
    "another folder": ('{"weight_map": {"a": "../a.bin"}}', "cannot be in '../a.bin'"),
    "another model": ('{"weight_map": {"a": "a.bin"}}', "is not the index of a CoCa"),
    "a file that is missing": ('{"weight_map": {"text_decoder.text_projection": "b.bin"}}', "no such file"),
    "a tensor that is missing": ('{"weight_map": {"text_decoder.text_projection": "a.bin"}}', "lacks text_decoder."),
}


@pytest.mark.parametrize("case", INDEXES)
def test_indexes_that_lie_are_refused(tmp_path: Path, case: str) -> None:
    text, problem = INDEXES[case]
    torch.save({"logit_scale": torch.tensor(1.0)}, tmp_path / "a.bin")
    (tmp_path / "a.bin.index.json").write_text(text)
    assert problem in refused(tmp_path / "a.bin.index.json").message


# Sizes that lie


class Zeros:
    """Pickled, it asks for so many bytes of zeros."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __reduce__(self) -> tuple[object, tuple[int]]:
        return bytearray, (self.size,)


def write_zip(path: Path, compression: int, content: bytes) -> None:
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("a/data.pkl", content)
        file.writestr("a/version", "3")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux limits memory")
@pytest.mark.parametrize("zipped", [False, True])
def test_pickles_that_inflate_are_refused(tmp_path: Path, zipped: bool) -> None:
    path, code = tmp_path / "a.pt", pickle.dumps({"a": Zeros(6 << 30)}, 2)
    if zipped:
        write_zip(path, zipfile.ZIP_STORED, code)
    else:
        header = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
        path.write_bytes(b"".join([*header, code]))
    limits = resource.getrlimit(resource.RLIMIT_AS)
    assert "takes more memory than a checkpoint of its size" in refused(path).message
    assert resource.getrlimit(resource.RLIMIT_AS) == limits


def test_compressed_archives_are_refused(tmp_path: Path) -> None:
    write_zip(tmp_path / "a.pt", zipfile.ZIP_DEFLATED, bytes(10 << 20))
    assert "bytes, but 10,485,761 unpacked" in refused(tmp_path / "a.pt").message


def test_tensors_larger_than_their_file_are_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1).expand(1 << 20, 1 << 20)}, tmp_path / "a.pt")
    assert "but its tensors claim 4,398,046,511,104" in refused(tmp_path / "a.pt").message


@pytest.mark.parametrize(
    "header",
    [b"[" * 100_000, b'{"a": 1}', b'{"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}'],
)
def test_safetensors_headers_that_lie_are_refused(tmp_path: Path, header: bytes) -> None:
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(64))
    assert "is truncated or not a safetensors file" in refused(tmp_path / "a.safetensors").message
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", 1 << 62) + header)
    assert "is truncated or not a safetensors file" in refused(tmp_path / "a.safetensors").message
