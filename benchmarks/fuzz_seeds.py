"""Valid inputs of each kind, which `fuzz.py` mutates."""

import io
import json
import shutil
import subprocess
import tarfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[1]
CLIPS = sorted((ROOT / "examples").glob("*.mp4"))
GOLDEN = ROOT / "tests/data/goldens/tiny"
CAPTIONS = ("a red circle grows", "a blue square moves", "a green triangle appears", "two things change")


def _picture(number: int = 0, mode: str = "RGB", size: tuple[int, int] = (48, 40)) -> Image.Image:
    pixels = np.random.default_rng(number).integers(0, 255, (*size[::-1], 4), np.uint8)
    return Image.fromarray(pixels, "RGBA").convert(mode)


def _encoded(kind: str, number: int = 0, mode: str = "RGB", **options: Any) -> bytes:
    written = io.BytesIO()
    _picture(number, mode).save(written, kind, **options)
    return written.getvalue()


def pictures(folder: Path) -> None:
    """Write a picture of each format and mode, and headers that claim more than the memory."""
    import pillow_heif

    pillow_heif.register_heif_opener()
    several = {"save_all": True, "append_images": [_picture(1), _picture(2)], "duration": 100}
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a" * 100
    files = {
        "a.png": _encoded("PNG"), "b.png": _encoded("PNG", mode="P"), "c.png": _encoded("PNG", mode="RGBA"),
        "d.png": _encoded("PNG", **several),
        "e.png": _encoded("PNG", mode="I;16") if False else _encoded("PNG", mode="LA"), "a.jpg": _encoded("JPEG",
        exif=exif), "b.jpg": _encoded("JPEG", mode="CMYK"),
        "c.jpg": _encoded("JPEG", progressive=True), "a.gif": _encoded("GIF", **several), "b.gif": _encoded("GIF"),
        "a.webp": _encoded("WEBP", **several),
        "b.webp": _encoded("WEBP", lossless=True), "c.webp": _encoded("WEBP", exif=exif), "a.tif": _encoded("TIFF",
        exif=exif), "b.tif": _encoded("TIFF", mode="F"),
        "c.tif": _encoded("TIFF", compression="tiff_lzw"), "a.bmp": _encoded("BMP"), "a.ppm": _encoded("PPM"),
        "a.jp2": _encoded("JPEG2000"), "a.avif": _encoded("AVIF", **several),
        "b.avif": _encoded("AVIF"), "a.heic": _encoded("HEIF"),
        "b.heic": (ROOT / "tests/data/video/tiled.heic").read_bytes(),
        "bomb.ppm": b"P6 30000 30000 255\n", "plain.ppm": b"P3 20000 20000 255\n1 2 3", "bits.pbm": b"P4 16000 16000\n",
    }  # fmt: skip
    for name, content in files.items():
        (folder / "in" / name).write_bytes(content)
    Image.new("1", (15000, 15000)).save(folder / "in/bomb.png")
    Image.new("P", (12000, 12000)).save(folder / "in/bomb.gif")
    Image.new("L", (9000, 9000)).save(folder / "in/bomb.jpg")
    Image.new("RGB", (8000, 8000)).save(folder / "in/bomb.tif", compression="tiff_lzw")
    ok(folder)


@cache
def _ffmpeg() -> str:
    import imageio_ffmpeg

    return str(imageio_ffmpeg.get_ffmpeg_exe())


def _transcode(source: Path, target: Path, *options: str) -> None:
    command = [_ffmpeg(), "-v", "error", "-y", "-i", str(source), *options, str(target)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def videos(folder: Path) -> None:
    """Write a clip in each container and codec, and files that point to others."""
    place = folder / "in"
    shutil.copy(CLIPS[0], place / "a.mp4")
    small = ("-vf", "scale=64:48", "-r", "25", "-t", "1")
    for name, codec in {
        "b.mkv": "libx264", "c.avi": "mpeg4", "d.m2ts": "mpeg2video", "e.webm": "libvpx-vp9", "f.flv": "flv1",
        "g.mpg": "mpeg1video", "h.mov": "mjpeg",
        "i.wmv": "wmv2", "j.h264": "libx264", "k.mjpeg": "mjpeg", "l.ogv": "libtheora", "m.y4m": "rawvideo",
        "n.mkv": "ffv1", "o.nut": "mpeg4",
        "p.mp4": "libx265", "q.webm": "libvpx", "r.mxf": "mpeg2video", "s.mp4": "libx264",
    }.items():  # fmt: skip
        extra = ("-movflags", "frag_keyframe+empty_moov") if name == "s.mp4" else ()
        _transcode(
            CLIPS[1],
            place / name,
            *small,
            "-c:v",
            codec,
            "-pix_fmt",
            "yuvj420p" if codec == "mjpeg" else "yuv420p",
            *extra,
        )
    (place / "t.y4m").write_bytes(b"YUV4MPEG2 W30000 H30000 F25:1 Ip A1:1 C420\nFRAME\n" + bytes(1000))
    (place / "u.mp4").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n/etc/passwd\n#EXT-X-ENDLIST\n")
    (place / "v.mkv").write_text("ffconcat version 1.0\nfile /etc/passwd\n")
    ok(folder)


def subtitles(folder: Path) -> None:
    """Write videos with tracks of subtitles, among them odd ones."""
    (folder / "a.srt").write_text(
        "1\n00:00:00,000 --> 00:00:01,000\n<b>a\n\n2\n00:00:01,000 --> 00:00:03,999\n{\\an8}b\n"
    )
    for name, codec in (("a.mkv", "srt"), ("b.mp4", "mov_text"), ("c.mkv", "ass"), ("d.webm", "webvtt")):
        video = ("-c:v", "copy") if name != "d.webm" else ("-c:v", "libvpx", "-t", "1")
        _transcode(
            CLIPS[2],
            folder / "in" / name,
            "-i",
            str(folder / "a.srt"),
            *video,
            "-c:s",
            codec,
            "-map",
            "0:v",
            "-map",
            "1:s",
        )
    ok(folder)


def ok(folder: Path) -> None:
    shutil.copy(CLIPS[3], folder / "ok.mp4")


def torch(folder: Path) -> None:
    shutil.copy(GOLDEN / "open_clip_pytorch_model.bin", folder / "in/m.pt")
    shutil.copy(GOLDEN / "config.json", folder / "in/m.json")
    ok(folder)


def _state() -> dict[str, Any]:
    import torch

    state: dict[str, Any] = torch.load(GOLDEN / "open_clip_pytorch_model.bin", weights_only=True)
    return state


def safetensors(folder: Path) -> None:
    from safetensors.torch import save_file

    save_file(_state(), folder / "in/m.safetensors")
    shutil.copy(GOLDEN / "config.json", folder / "in/m.json")


def shards(folder: Path) -> None:
    from safetensors.torch import save_file

    state = _state()
    names = sorted(state)
    parts = {"m-00001-of-00002.safetensors": names[::2], "m-00002-of-00002.safetensors": names[1::2]}
    for name, own in parts.items():
        save_file({key: state[key] for key in own}, folder / "in" / name)
    index = {"metadata": {"total_size": 1}, "weight_map": {key: name for name, own in parts.items() for key in own}}
    (folder / "in/m.safetensors.index.json").write_text(json.dumps(index))
    shutil.copy(GOLDEN / "config.json", folder / "in/config.json")


def ckpt(folder: Path) -> None:
    from cococli.checkpoints.convert import to_mindspore

    to_mindspore(GOLDEN / "open_clip_pytorch_model.bin", folder / "in/m.ckpt")
    ok(folder)


def configs(folder: Path) -> None:
    import yaml

    shutil.copy(GOLDEN / "open_clip_pytorch_model.bin", folder / "in/m.bin")
    config = json.loads((GOLDEN / "config.json").read_text())
    config["preprocess_cfg"] = {
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "interpolation": "bicubic",
        "resize_mode": "shortest",
        "size": 32,
    }
    (folder / "in/m.json").write_text(json.dumps(config))
    (folder / "in/m.yaml").write_text(yaml.safe_dump(config))


def training(folder: Path) -> None:
    captioned(folder / "in", "jsonl")
    thin(folder)


def cached(folder: Path) -> None:
    from checkpoints.stored_models import fill

    place = folder / "home/models/mine"
    place.mkdir(parents=True)
    fill(place)
    ok(folder)


def bundles(folder: Path) -> None:
    cached(folder)
    place = folder / "home/models/mine"
    with tarfile.open(folder / "in/m.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
        for name in ("manifest.json", "config.json", "model.ckpt"):
            member = tarfile.TarInfo(f"mine/{name}")
            member.size = (place / name).stat().st_size
            with (place / name).open("rb") as file:
                tar.addfile(member, file)
    shutil.rmtree(folder / "home/models")


def _jpegs(folder: Path) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{number:012}.jpg" for number in range(1, 5)]
    for number, name in enumerate(names):
        (folder / name).write_bytes(_encoded("JPEG", number))
    return names


def thin(folder: Path) -> None:
    """Write the smallest config that can be trained."""
    from training.tiny_run import config_file

    config_file(folder)


def coco(folder: Path) -> None:
    for split in ("train", "val"):
        names = _jpegs(folder / f"in/{split}2017")
        images = [{"id": number, "file_name": name, "height": 40, "width": 48} for number, name in enumerate(names, 1)]
        notes = [{"id": number, "image_id": number, "caption": text} for number, text in enumerate(CAPTIONS, 1)]
        place = folder / f"in/annotations/captions_{split}2017.json"
        place.parent.mkdir(exist_ok=True)
        place.write_text(json.dumps({"info": {}, "images": images, "annotations": notes}))
    thin(folder)


def karpathy(folder: Path) -> None:
    images = [
        {"filename": name, "filepath": "val2014", "cocoid": number, "imgid": number, "split": ("train",
        "val")[number % 2],
         "sentences": [{"raw": text, "tokens": text.split(), "imgid": number, "sentid": number}]}
        for number, (name, text) in enumerate(zip(_jpegs(folder / "in/val2014"), CAPTIONS, strict=True))
    ]  # fmt: skip
    (folder / "in/dataset_coco.json").write_text(json.dumps({"dataset": "coco", "images": images}))
    thin(folder)


def captioned(place: Path, suffix: str) -> None:
    """Write pictures and a list of their captions."""
    rows = [
        {"path": name, "caption": text, "split": split}
        for split in ("train", "val")
        for name, text in zip(_jpegs(place / split), CAPTIONS, strict=True)
    ]
    rows = [row | {"path": f"{row['split']}/{row['path']}"} for row in rows]
    table = place / f"captions.{suffix}"
    if suffix == "parquet":
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), table)
    elif suffix == "jsonl":
        table.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    else:
        separator = {"csv": ",", "tsv": "\t", "txt": ";"}[suffix]
        table.write_text(
            "".join(f"{separator.join(row)}\n" for row in (rows[0].keys(), *(row.values() for row in rows)))
        )


def embedded(folder: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    rows = [
        {"image": {"bytes": _encoded("JPEG", number), "path": f"{number}.jpg"}, "caption": text}
        for number, text in enumerate(CAPTIONS)
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "in/train.parquet")
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "in/val.parquet")


def sidecars(folder: Path) -> None:
    for number, name in enumerate(_jpegs(folder / "in")):
        suffix = (".txt", ".json", ".caption", ".txt")[number]
        text = json.dumps({"caption": CAPTIONS[number]}) if suffix == ".json" else f"{CAPTIONS[number]}\n"
        (folder / "in" / name).with_suffix(suffix).write_text(text)
    thin(folder)


def results(folder: Path) -> None:
    coco(folder)
    shutil.copy(folder / "in/annotations/captions_val2017.json", folder / "in/references.json")
    found = [{"image_id": number, "caption": text} for number, text in enumerate(CAPTIONS, 1)]
    (folder / "in/results.json").write_text(json.dumps(found))
    for name in ("results", "references"):
        (folder / f"in/{name}.csv").write_text(
            "image_id,caption\n" + "".join(f"{it['image_id']},{it['caption']}\n" for it in found)
        )
    for name in ("annotations", "val2017", "train2017"):
        shutil.rmtree(folder / "in" / name)


def classes(folder: Path) -> None:
    for name in ("red_cat", "blue_dog"):
        _jpegs(folder / "in" / name)
    for name in ("classes", "names"):
        (folder / f"in/{name}.json").write_text(json.dumps({"red_cat": "red cat", "blue_dog": "blue dog"}))


def _write_tar(path: Path, files: dict[str, bytes]) -> None:
    from media.tar_fixtures import write_tar

    write_tar(path, files.items())


def class_tars(folder: Path) -> None:
    files = {
        f"{number}.{kind}": data
        for number in range(4)
        for kind, data in (("jpg", _encoded("JPEG", number)), ("cls", f"{number % 2}".encode()))
    }
    _write_tar(folder / "in/a.tar", files)
    (folder / "in/classnames.txt").write_text("red cat\nblue dog\n")


def tars(folder: Path) -> None:
    for tar in ("a", "b"):
        files: dict[str, bytes] = {}
        for number, text in enumerate(CAPTIONS):
            files[f"{tar}/{number}.jpg"] = _encoded("JPEG", number)
            files[f"{tar}/{number}.{('txt', 'json')[number % 2]}"] = (
                text.encode() if number % 2 == 0 else json.dumps({"caption": text}).encode()
            )
        files[f"{tar}/9.mp4"] = CLIPS[0].read_bytes()
        _write_tar(folder / f"in/{tar}.tar", files)
    thin(folder)


def config(folder: Path) -> None:
    own = ["[caption]", "beams = 3", 'frames = "middle"', "timeout = 20.0", 'ban = ["a"]']
    lines = ['model = "shapes"', "threads = 1", "quiet = true", "", *own]
    (folder / "config.toml").write_text("\n".join(lines) + "\n")
    ok(folder)


def _coca(folder: Path, *arguments: str) -> None:
    """Run the program to make outputs that are mutated."""
    from cli import fork_server

    env = fork_server.ENVIRONMENT | {
        "COCA_HOME": str(folder / "home"),
        "COCA_CONFIG": str(folder / "none.toml"),
        "COCA_MODEL": "shapes",
    }
    done = fork_server.run(
        *arguments, "--quiet", cwd=folder, env=env | {"COCA_ENGINE": "torch", "COCA_PRECISION": "fp32"}
    )
    assert done.returncode == 0, done.stderr


def journals(folder: Path) -> None:
    ok(folder)
    shutil.copy(CLIPS[0], folder / "in/a.mp4")
    _coca(folder, "caption", "ok.mp4", "in", "-o", "out/o.jsonl", "--candidates", "2")


def reviews(folder: Path) -> None:
    journals(folder)
    from cococli.review.edits import Review

    with_edits = Review(folder / "out/o.jsonl")
    for id in with_edits.records:
        with_edits.edit(id, 0, "a better caption", "accepted")


def scores(folder: Path) -> None:
    sidecars(folder)
    _coca(folder, "score", "in", "-o", "out/s.jsonl")


def indexes(folder: Path) -> None:
    journals(folder)
    (folder / "queries.txt").write_text("a circle\na dog^2 + in/a.mp4^0.5 --not a car\nok.mp4\n")
    _coca(folder, "embed", "in", "ok.mp4", "--texts", "queries.txt", "-o", "out/i/")
    _coca(folder, "search", "dog", "out/i", "--approximate")


def merged(folder: Path) -> None:
    for clip in CLIPS:
        shutil.copy(clip, folder / "in")
    for shard in ("0/2", "1/2"):
        _coca(folder, "caption", "in", "-o", "out/o.jsonl", "--shard", shard)


def merged_numbers(folder: Path) -> None:
    numbered(folder, ["--shard", "0/2"], ["--shard", "1/2"])


def numbered(folder: Path, *options: list[str]) -> None:
    for clip in CLIPS[:4]:
        shutil.copy(clip, folder / "in")
    for place in ("n", "t"):
        (folder / "out" / place).mkdir()
    for words in options or [[]]:
        _coca(folder, "caption", "in", "-o", "out/n/%05d.jsonl", "--shard-size", "2", *words)
        _coca(folder, "caption", "in", "-o", "out/t/%06d.tar", "--shard-size", "2", *words)


def runs(folder: Path) -> None:
    thin(folder)
    ok(folder)
    (folder / "data").mkdir()
    captioned(folder / "data", "jsonl")
    usual = (
        "--data data --from-scratch --config thin.json --batch-size 2 --hold-out 0 --save-every 1 --name mine --steps"
    )
    _coca(folder, "finetune", *usual.split(), "3")
    shutil.rmtree(folder / "home/runs/mine/checkpoints/3", ignore_errors=True)


web = s3 = hub = ok


def make(name: str, folder: Path) -> None:
    """Make a valid input in a folder, in which the folders `in`, `out` and `home` are.

    Args:
        name: A function of this module, `lists.SUFFIX`, or `fixtures.BENCHMARK`.
    """
    kind, _, what = name.partition(".")
    if kind == "fixtures":
        from evaluation import benchmark_fixtures

        getattr(benchmark_fixtures, what.replace("-", "_"))(folder / "in")
    elif kind == "lists":
        captioned(folder / "in", what)
        thin(folder)
    else:
        globals()[name](folder)
