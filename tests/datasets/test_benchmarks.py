"""Benchmarks in their authors' formats."""

from pathlib import Path
from typing import get_args

import pytest
from evaluation import benchmark_fixtures as fixtures

from cococli.datasets.benchmark_folder import BenchmarkData, Event, words_of
from cococli.datasets.benchmarks import BENCHMARKS, read_benchmark
from cococli.datasets.dataset import Dataset, Split
from cococli.errors import UsageError
from cococli.requests import BenchmarkName

ROOT = Path(__file__).parents[2]


def read(name: str, folder: Path, split: Split | None = None) -> BenchmarkData:
    return read_benchmark(name, folder, split)


def captions(dataset: Dataset | None) -> dict[str, tuple[str, ...]]:
    assert dataset
    assert all(example.path.exists() for example in dataset.examples if "@" not in str(example.path))
    return {example.id: example.captions for example in dataset.examples}


def test_msr_vtt_has_captions_and_1k_a(tmp_path: Path) -> None:
    fixtures.msr_vtt(tmp_path)
    found = read("msr-vtt", tmp_path)
    assert captions(found.captions) == {
        video: (text, f"{text} slowly")
        for video, text in zip(("video7010", "video9770", "video9999"), fixtures.SENTENCES, strict=False)
    }
    assert captions(found.retrieval) == {
        "video9770": ("a circle changes its color, twice",),
        "video9999": ("a square grows",),
    }
    assert list(captions(read("msr-vtt", tmp_path, "val").captions)) == ["video6513"]
    (tmp_path / "test_videodatainfo.json").unlink()
    assert read("msr-vtt", tmp_path).captions is None
    (tmp_path / "MSRVTT_JSFUSION_test.csv").unlink()
    with pytest.raises(UsageError, match=r"has no test_videodatainfo\.json or MSRVTT_data\.json") as caught:
        read("msr-vtt", tmp_path)
    assert caught.value.hint.startswith("--benchmark msr-vtt reads train_val_videodatainfo.json, ")


def test_msvd_uses_lists_or_usual_order(tmp_path: Path) -> None:
    fixtures.msvd(tmp_path)
    found = captions(read("msvd", tmp_path).captions)
    assert found["mv89psg6zh4_34_46"] == (
        "a circle changes its color, twice.",
        "a circle changes its color, twice again",
    )
    assert list(found) == ["mv89psg6zh4_34_46", "mv89psg6zh4_35_46"]
    (tmp_path / "test_list.txt").write_text("mv89psg6zh4_33_46\n")
    assert list(captions(read("msvd", tmp_path).retrieval)) == ["mv89psg6zh4_33_46"]


def test_vatex_has_english_captions(tmp_path: Path) -> None:
    fixtures.vatex(tmp_path)
    found = captions(read("vatex", tmp_path).captions)
    assert found["Ptf_2VRj-V0_000122_000132"] == ("a triangle appears", "a triangle appears")
    assert (len(found), len(captions(read("vatex", tmp_path, "val").captions))) == (3, 1)


def test_vatex_takes_halves_of_hgr(tmp_path: Path) -> None:
    fixtures.vatex_hgr(tmp_path)
    found = read("vatex", tmp_path)
    assert len(captions(found.captions)) == 3
    expected = {
        f"Ptf_2VRj-V{clip}_000122_000132": (f"{fixtures.SENTENCES[clip]} once", f"{fixtures.SENTENCES[clip]} again")
        for clip in (2, 1)
    }
    assert captions(found.retrieval) == expected
    assert found.notes == ("retrieval is measured on HGR's split: 2 videos of test_list.txt",)
    other = read("vatex", tmp_path, "val")
    assert (len(captions(other.captions)), list(captions(other.retrieval))) == (3, ["Ptf_2VRj-V0_000122_000132"])
    (tmp_path / "vatex_data" / "test_list.txt").unlink()
    (tmp_path / "vatex_public_test_english_v1.1.json").unlink()
    for source in ("vatex_validation_v1.0.json", "vatex_data/vatex_data.json", "annotation/RET/ref_captions.json"):
        found = read("vatex", tmp_path)
        assert (found.captions, captions(found.retrieval)) == (None, expected)
        (tmp_path / source).unlink()
    assert found.notes[1] == "captions are not measured: vatex_public_test_english_v1.1.json is missing"
    for content in (b"", b"\x93NUMPY", b"sf2PPeXQrUA\n"):
        (tmp_path / "public_split" / "tst_names.npy").write_bytes(content)
        with pytest.raises(UsageError, match=r"tst_names\.npy is not valid NumPy array of texts"):
            read("vatex", tmp_path)


def test_activitynet_has_segments_and_paragraphs(tmp_path: Path) -> None:
    fixtures.activitynet(tmp_path)
    found = read("activitynet", tmp_path)
    assert captions(found.captions) == {
        "v_uqiMw7tQ1Cc 0-1.45s": ("It begins.",),
        "v_uqiMw7tQ1Cc 0.28-3.9s": ("A triangle appears.",),
        "v_uqiMw7tQ1Cc 3-60s": ("It ends.",),
        "v_bXdq2zI1Ms0 0-4s": ("A circle changes its color.",),
    }
    first, second = found.events
    assert (len(first["v_uqiMw7tQ1Cc"]), list(second)) == (3, ["v_uqiMw7tQ1Cc"])
    assert list(second["v_uqiMw7tQ1Cc"]) == [Event((0.2, 3.8), "A triangle comes. ")]
    assert captions(found.retrieval)["v_uqiMw7tQ1Cc"] == ("It begins. A triangle appears. It ends.",)
    with pytest.raises(UsageError, match="has no test split, only train, val"):
        read("activitynet", tmp_path, "test")


@pytest.mark.parametrize(("name", "ids"), [("flickr30k", ["1", "2"]), ("coco", ["391896", "391897"])])
def test_karpathy_splits_are_read(name: str, ids: list[str], tmp_path: Path) -> None:
    getattr(fixtures, name)(tmp_path)
    found = read(name, tmp_path)
    assert list(captions(found.captions)) == ids
    assert found.captions is found.retrieval


def test_nocaps_has_domains(tmp_path: Path) -> None:
    fixtures.nocaps(tmp_path)
    found = read("nocaps", tmp_path)
    assert len(captions(found.captions)) == 3
    assert found.groups == {"0": "in-domain", "1": "near-domain", "2": "near-domain"}


CLASSES = {
    fixtures.imagenet: ["tench", "goldfish"],
    fixtures.kaggle_imagenet: ["tench", "goldfish"],
    fixtures.imagenet_devkit: ["goldfish", "tench"],
    fixtures.kinetics: ["riding a bike", "air drumming"],
    fixtures.kinetics_folders: ["air drumming", "riding a bike"],
    fixtures.kinetics_lists: ["air drumming", "archery", "riding a bike"],
    fixtures.kinetics_numbers: ["riding a bike", "air drumming", "archery"],
    fixtures.ucf101: ["apply eye makeup", "yo yo", "archery"],
    fixtures.hmdb51: ["brush hair", "cartwheel"],
}


@pytest.mark.parametrize("make", CLASSES, ids=lambda make: make.__name__)
def test_classes_have_names_and_files(make, tmp_path: Path) -> None:
    make(tmp_path)
    name = next(name for name in BENCHMARKS if name in make.__name__)
    found = read(name, tmp_path).classes
    assert list(found) == CLASSES[make]
    assert [len(files) for files in found.values() if files] == [1, 1]
    assert all(path.is_file() for files in found.values() for path in files)


def test_class_names_are_split_into_words() -> None:
    assert list(map(words_of, ("ApplyEyeMakeup", "TaiChi", "brush_hair"))) == [
        "apply eye makeup",
        "tai chi",
        "brush hair",
    ]


def test_times_of_kinetics_must_be_numbers(tmp_path: Path) -> None:
    fixtures.kinetics(tmp_path)
    table = tmp_path / "kinetics400" / "validate.csv"
    table.write_text(table.read_text().replace("417", "soon"))
    with pytest.raises(UsageError, match=r"line 2 of .*validate\.csv has 'soon' instead of a time in time_start"):
        read("kinetics", tmp_path)


def test_folder_without_videos_is_an_error(tmp_path: Path) -> None:
    fixtures.ucf101(tmp_path)
    with pytest.raises(UsageError, match=r"none of the 2 files in .*testlist01\.txt is found") as caught:
        read_benchmark("ucf101", tmp_path, images=tmp_path / "ucfTrainTestlist")
    assert caught.value.hint == "pass their folder with --images"


def test_benchmark_names_are_documented() -> None:
    assert get_args(BenchmarkName) == tuple(BENCHMARKS)
    lines = (ROOT / "docs" / "evaluation.md").read_text().splitlines()
    rows = [line.split(" | ") for line in lines if line.startswith("| `")]
    names = {
        name: f"| `{name}` | {it.title} | {it.files} | {it.split} | {', '.join(it.measures)} |"
        for name, it in BENCHMARKS.items()
        if not name.endswith(("-2", "-3"))
    }
    assert [row for row in lines if row in names.values()] == list(names.values()), (rows, "\n".join(names.values()))
