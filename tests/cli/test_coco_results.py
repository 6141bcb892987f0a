"""COCO's results, as `coca caption` writes them and the official tools read them."""

import json
from pathlib import Path

import pytest
from PIL import Image

NAMES = {"beach.jpg": 7, "COCO_val2014_000000000042.jpg": 42, "000000000139.jpg": 1390}


@pytest.fixture
def coco(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """COCO's layout with three pictures, whose names do not tell all ids, and a broken one."""
    monkeypatch.setenv("COCA_MODEL", "shapes")
    (tmp_path / "val2014").mkdir()
    (tmp_path / "annotations").mkdir()
    for name in NAMES:
        Image.new("RGB", (64, 64), "red").save(tmp_path / "val2014" / name)
    (tmp_path / "val2014" / "broken.jpg").write_bytes(b"not a picture")
    content = {
        "info": {},
        "images": [{"id": number, "file_name": name} for name, number in NAMES.items()],
        "annotations": [
            {"id": number, "image_id": number, "caption": "a large red circle"} for number in NAMES.values()
        ],
    }
    (tmp_path / "annotations" / "captions_val2014.json").write_text(json.dumps(content))
    return tmp_path


def test_official_tools_load_results(coca, coco: Path) -> None:
    results, records = coco / "results.json", coco / "records.jsonl"
    run = coca("caption", coco / "val2014", "-o", results, "-o", records)
    assert run.returncode == 1  # the broken picture
    lines = [json.loads(line) for line in records.read_text().splitlines()]
    written = json.loads(results.read_text())
    assert written == [
        {"image_id": NAMES[Path(line["video"]).name], "caption": line["caption"]}
        for line in lines
        if line["status"] == "ok"
    ]
    from pycocotools.coco import COCO

    truth = COCO(str(coco / "annotations" / "captions_val2014.json"))
    loaded = truth.loadRes(str(results))
    assert {one["image_id"]: one["caption"] for one in loaded.loadAnns(loaded.getAnnIds())} == {
        one["image_id"]: one["caption"] for one in written
    }
    again = coca("caption", coco / "val2014", "-o", results)
    assert (again.returncode, json.loads(results.read_text())) == (1, written)


def test_names_tell_ids_without_annotations(coca, coco: Path) -> None:
    (coco / "annotations" / "captions_val2014.json").unlink()
    results = coco / "results.json"
    assert coca("caption", *((coco / "val2014" / name) for name in NAMES), "-o", results).returncode == 0
    assert [one["image_id"] for one in json.loads(results.read_text())] == ["beach", 42, 139]


def test_ambiguous_results_exit_with_2(coca, coco: Path) -> None:
    run = coca("caption", coco / "val2014", "--segments", "2", "-o", coco / "results.json")
    assert (run.returncode, "error: COCO's results hold one caption of each file" in run.stderr) == (2, True)
    (coco / "other").mkdir()
    (coco / "val2014" / "beach.jpg").rename(coco / "other" / "42.png")
    (coco / "other" / "000000000042.png").write_bytes((coco / "other" / "42.png").read_bytes())
    run = coca("caption", coco, "-o", coco / "results.json")
    assert (run.returncode, "have the same id in COCO's results: 42" in run.stderr) == (2, True)
