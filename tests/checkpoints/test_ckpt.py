"""MindSpore's file format, checked against MindSpore itself."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cococli.checkpoints import ckpt
from cococli.errors import ModelError

ARRAYS = {
    "logit_scale": np.float32(2.6593).reshape(()),
    "bias": np.arange(7, dtype=np.float32),
    "visual.conv1.weight": np.random.default_rng(0).normal(size=(8, 3, 4, 4)).astype(np.float32),
    "ünï": np.array([[np.nan, -0.0, np.inf, 1e-45]], np.float32),
}


def write(path: Path, arrays: dict[str, np.ndarray] = ARRAYS) -> Path:
    with path.open("wb") as file:
        for name, array in arrays.items():
            ckpt.write(file, name, array.shape, [array])
    return path


def assert_same_bits(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert one.keys() == other.keys()
    for name, array in one.items():
        assert (array.shape, array.dtype) == (other[name].shape, other[name].dtype), name
        assert array.tobytes() == other[name].tobytes(), name


def test_written_arrays_are_read_back(tmp_path: Path) -> None:
    assert_same_bits(ckpt.read(write(tmp_path / "a.ckpt")), ARRAYS)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_mindspore_reads_written_file(tmp_path: Path, dtype: str) -> None:
    import mindspore

    arrays = {name: array.astype(dtype) for name, array in ARRAYS.items()}
    with (tmp_path / "a.ckpt").open("wb") as file:
        for name, array in arrays.items():
            ckpt.write(file, name, array.shape, [array], dtype)
    loaded = mindspore.load_checkpoint(str(tmp_path / "a.ckpt"))
    assert_same_bits({name: parameter.asnumpy() for name, parameter in loaded.items()}, arrays)
    assert_same_bits(ckpt.read(tmp_path / "a.ckpt"), arrays)


@pytest.mark.parametrize("checksum", [False, True])
def test_file_of_mindspore_is_read(tmp_path: Path, checksum: bool) -> None:
    import mindspore

    arrays = {
        **ARRAYS,
        "half": np.ones((2, 3), np.float16),
        "step": np.array(7, np.int32),
        "flags": np.array([True, False]),
    }
    parameters = [{"name": name, "data": mindspore.Tensor(array)} for name, array in arrays.items()]
    mindspore.save_checkpoint(parameters, str(tmp_path / "a.ckpt"), crc_check=checksum)
    assert_same_bits(ckpt.read(tmp_path / "a.ckpt"), arrays)


def test_a_parameter_in_several_slices_is_joined(tmp_path: Path) -> None:
    from mindspore.train.checkpoint_pb2 import Checkpoint

    whole = np.arange(12, dtype=np.float32).reshape(6, 2)
    message = Checkpoint()
    for rows in (whole[:4], whole[4:]):  # as MindSpore splits what exceeds 512 MB
        value = message.value.add(tag="a")
        value.tensor.dims.extend(whole.shape)
        value.tensor.tensor_type = "Float32"
        value.tensor.tensor_content = rows.tobytes()
    (tmp_path / "a.ckpt").write_bytes(message.SerializeToString())
    assert_same_bits(ckpt.read(tmp_path / "a.ckpt"), {"a": whole})


def test_arrays_are_aligned_read_only_views(tmp_path: Path) -> None:
    for array in ckpt.read(write(tmp_path / "a.ckpt")).values():
        assert array.ctypes.data % 64 == 0
        assert not array.flags.owndata
        assert not array.flags.writeable


def test_a_parameter_is_written_part_by_part(tmp_path: Path) -> None:
    rows = np.arange(20, dtype=np.float32).reshape(5, 4)
    with (tmp_path / "a.ckpt").open("wb") as file:
        ckpt.write(file, "a", (5, 4), (rows[at : at + 2] for at in range(0, 5, 2)))
    assert_same_bits(ckpt.read(tmp_path / "a.ckpt"), {"a": rows})


def test_truncated_file_never_gives_wrong_tensor(tmp_path: Path) -> None:
    whole, path = write(tmp_path / "a.ckpt").read_bytes(), tmp_path / "cut.ckpt"
    refused = 0
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        try:
            arrays = ckpt.read(path)
        except ModelError:
            refused += 1
        else:  # between two parameters: those before the cut are whole
            assert_same_bits(arrays, {name: ARRAYS[name] for name in arrays})
    assert refused == len(whole) - (len(ARRAYS) - 1)


@settings(max_examples=200, deadline=None)
@given(garbage=st.binary(min_size=0, max_size=200), at=st.integers(0, 400), start=st.booleans())
def test_garbage_is_refused_or_read_but_never_crashes(
    tmp_path_factory: pytest.TempPathFactory, garbage: bytes, at: int, start: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "garbage.ckpt"
    whole = write(path).read_bytes()
    path.write_bytes(garbage if start else whole[:at] + garbage + whole[at + len(garbage) :])
    try:
        ckpt.read(path)
    except ModelError as error:
        assert "\n" not in error.message


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"\x0a\x05hello", "unknown wire type|missing|without"),
        (b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", "64 bits"),
        (b"\x0a\xff\xff\xff\xff\x7f", "are missing at its end"),
    ],
)
def test_damage_is_reported_on_one_line(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "a.ckpt").write_bytes(content)
    with pytest.raises(ModelError, match=reason):
        ckpt.read(tmp_path / "a.ckpt")


def test_missing_file_and_folder_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="No such file"):
        ckpt.read(tmp_path / "none.ckpt")
    with pytest.raises(ModelError, match="Is a directory"):
        ckpt.read(tmp_path)
