"""Small copies of public benchmarks, in the formats of their authors, with the example clips and frames of them."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.io import savemat

CLIPS = [
    Path(__file__).parents[2] / "examples" / f"{name}.mp4"
    for name in ("appears", "changes", "grows", "moves", "vanishes")
]
SENTENCES = [
    "a triangle appears",
    "a circle changes its color, twice",
    "a square grows",
    "a circle moves",
    "it vanishes",
]


def put(path: Path, clip: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(CLIPS[clip], path)


def draw(path: Path, color: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (64, 48), color).save(path, "jpeg")


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def msr_vtt(folder: Path) -> None:
    def info(videos: list[tuple[str, str]]) -> dict[str, Any]:
        return {
            "info": {"contributor": "Microsoft MSM multimedia group", "version": "1.0"},
            "videos": [
                {"category": 9, "url": "https://www.youtube.com/watch?v=9lZi22qLlEo", "video_id": video}
                | {"start time": 137.72, "end time": 149.44, "split": split, "id": int(video.removeprefix("video"))}
                for video, split in videos
            ],
            "sentences": [
                {"caption": f"{text}{extra}", "video_id": video, "sen_id": 100 * clip + number}
                for clip, (text, (video, _)) in enumerate(zip(SENTENCES, videos, strict=False))
                for number, extra in enumerate(("", " slowly"))
            ],
        }

    train = [("video0", "train"), ("video6513", "validate")]
    test = [("video7010", "test"), ("video9770", "test"), ("video9999", "test")]
    write(folder / "train_val_annotation" / "train_val_videodatainfo.json", info(train))
    write(folder / "test_videodatainfo.json", info(test))
    with (folder / "MSRVTT_JSFUSION_test.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["key", "vid_key", "video_id", "sentence"])
        table.writerow(["ret0", "msr9770", "video9770", "a circle changes its color, twice"])
        table.writerow(["ret1", "msr9999", "video9999", "a square grows"])
    for clip, (video, _) in enumerate([*test, *train]):
        put(folder / ("TestVideo" if clip < 3 else "TrainValVideo") / f"{video}.mp4", clip)


def msvd(folder: Path) -> None:
    videos = [f"mv89psg6zh4_{33 + clip}_46" for clip in range(3)]
    lines = ["# Each line is a description of a video", "#", ""]
    lines += [f"{video} {SENTENCES[clip]}{extra}" for clip, video in enumerate(videos) for extra in (".", " again")]
    write(folder / "AllVideoDescriptions.txt", "\n".join(lines))
    numbers = [1, 1301, 1970]
    write(folder / "youtube_mapping.txt", "".join(f"{name} vid{n}\n" for name, n in zip(videos, numbers, strict=True)))
    for clip, video in enumerate(videos):
        put(folder / "YouTubeClips" / f"{video}.avi", clip)


def vatex(folder: Path) -> None:
    videos = [f"Ptf_2VRj-V{clip}_000122_000132" for clip in range(3)]
    public = [{"videoID": video, "enCap": [SENTENCES[clip]] * 2} for clip, video in enumerate(videos)]
    write(folder / "vatex_public_test_english_v1.1.json", public)
    write(folder / "vatex_validation_v1.0.json", [entry | {"chCap": ["一个圆"]} for entry in public[:1]])
    for clip, video in enumerate(videos):
        put(folder / f"{video}.mp4", clip)


def vatex_hgr(folder: Path) -> None:
    """VATEX with the halves of its validation set, in the files of HGR and of CLIP2Video."""
    vatex(folder)
    videos = [f"Ptf_2VRj-V{clip}_000122_000132" for clip in range(3)]
    captions = [[f"{SENTENCES[clip]} {word}" for word in ("once", "again")] for clip in range(3)]
    entries = [
        {"videoID": video, "enCap": own, "chCap": ["一个圆"]} for video, own in zip(videos, captions, strict=True)
    ]
    write(folder / "vatex_validation_v1.0.json", entries)
    write(folder / "vatex_data" / "test_list.txt", f"{videos[2]}\n{videos[1]}\n")
    data = {video: {"enCap": own, "chCap": ["一个圆"]} for video, own in zip(videos, captions, strict=True)}
    write(folder / "vatex_data" / "vatex_data.json", data)
    write(folder / "annotation" / "RET" / "ref_captions.json", dict(zip(videos, captions, strict=True)))
    (folder / "public_split").mkdir()
    np.save(folder / "public_split" / "tst_names.npy", np.array(videos[:0:-1]))
    np.save(folder / "public_split" / "val_names.npy", np.array(videos[:1]))


def activitynet(folder: Path) -> None:
    events = {
        "v_uqiMw7tQ1Cc": {
            "duration": 4.0,
            "timestamps": [[0.0, 1.45], [0.28, 3.9], [3, 60]],
            "sentences": ["It begins.", " A triangle appears.", " It ends."],
        },
        "v_bXdq2zI1Ms0": {"duration": 4.0, "timestamps": [[0, 4.0]], "sentences": ["A circle changes its color."]},
    }
    write(folder / "captions" / "val_1.json", events)
    other = {"duration": 4.0, "timestamps": [[0.2, 3.8]], "sentences": ["A triangle comes. "]}
    write(folder / "captions" / "val_2.json", {"v_uqiMw7tQ1Cc": other})
    put(folder / "videos" / "v_uqiMw7tQ1Cc.mp4", 0)
    put(folder / "videos" / "bXdq2zI1Ms0.mp4", 1)


def dense_events(folder: Path) -> None:
    """ActivityNet Captions of two videos that are not there, and a submission for one in densevid_eval's format."""
    first = {
        "v_uqiMw7tQ1Cc": {
            "duration": 10.0,
            "timestamps": [[0, 4.0], [4, 10], [0, 0.5]],
            "sentences": ["A man rides a horse.", " He falls off the saddle.", " Nobody is there."],
        },
        "v_bXdq2zI1Ms0": {"duration": 9.5, "timestamps": [[0, 9.5]], "sentences": ["The dog barks at us."]},
    }
    second = {"duration": 10.0, "timestamps": [[0, 1.6]], "sentences": ["Quiet music plays here now."]}
    write(folder / "val_1.json", first)
    write(folder / "val_2.json", {"v_uqiMw7tQ1Cc": second})
    results = [
        {"sentence": "A man rides a horse", "timestamp": [0.0, 5.0]},
        {"sentence": "he falls off the saddle", "timestamp": [4.0, 10.0]},
    ]
    submission = {"version": "VERSION 1.0", "results": {"v_uqiMw7tQ1Cc": results}}
    write(folder / "submission.json", submission | {"external_data": {"used": True, "details": "VGG-16"}})


def karpathy(folder: Path, name: str, extra: Callable[[int], dict[str, Any]]) -> None:
    images = [
        {"sentids": [clip], "imgid": clip, "split": "test" if clip else "train", "filename": f"{1000 + clip}.jpg"}
        | {"sentences": [{"tokens": text.split(), "raw": text, "imgid": clip, "sentid": clip}]}
        | extra(clip)
        for clip, text in enumerate(SENTENCES[:3])
    ]
    write(folder / f"dataset_{name}.json", {"images": images, "dataset": name})
    for image, color in zip(images, ("red", "green", "blue"), strict=True):
        draw(folder / (image.get("filepath") or "flickr30k-images") / image["filename"], color)


def flickr30k(folder: Path) -> None:
    karpathy(folder, "flickr30k", lambda _: {})


def coco(folder: Path) -> None:
    karpathy(folder, "coco", lambda clip: {"filepath": "val2014", "cocoid": 391895 + clip})


def nocaps(folder: Path) -> None:
    names = ["0013ea2087020901", "0039a9d0c2b6b0e0", "003c4d7a3b1a2b2e"]
    images = [
        {"id": number, "open_images_id": name, "file_name": f"{name}.jpg", "height": 1024, "width": 732}
        | {"coco_url": f"https://s3.amazonaws.com/nocaps/val/{name}.jpg", "date_captured": "2018-11-06 11:04:33"}
        | {"license": 0, "domain": ("in-domain", "near-domain", "near-domain")[number]}
        for number, name in enumerate(names)
    ]
    notes = [{"image_id": number, "id": number, "caption": SENTENCES[number]} for number in range(3)]
    write(
        folder / "nocaps_val_4500_captions.json", {"licenses": [], "info": {}, "images": images, "annotations": notes}
    )
    for name, color in zip(names, ("red", "green", "blue"), strict=True):
        draw(folder / "val" / f"{name}.jpg", color)


def imagenet(folder: Path) -> None:
    write(folder / "LOC_synset_mapping.txt", "n01440764 tench, Tinca tinca\nn01443537 goldfish, Carassius auratus\n")
    draw(folder / "val" / "n01440764" / "ILSVRC2012_val_00000293.JPEG", "green")
    draw(folder / "val" / "n01443537" / "ILSVRC2012_val_00000236.JPEG", "orange")


def kaggle_imagenet(folder: Path) -> None:
    imagenet(folder)
    flat = folder / "ILSVRC" / "Data" / "CLS-LOC" / "val"
    flat.mkdir(parents=True)
    for picture in sorted((folder / "val").glob("*/*")):
        picture.rename(flat / picture.name)
    rows = "ILSVRC2012_val_00000293,n01440764 1 2 30 40 \nILSVRC2012_val_00000236,n01443537 85 1 499 272 \n"
    write(folder / "LOC_val_solution.csv", "ImageId,PredictionString\n" + rows)


def imagenet_devkit(folder: Path) -> None:
    """The pictures in one folder, and `ILSVRC2012_devkit_t12`, whose synsets end with those that have children."""
    names = (
        "ILSVRC2012_ID",
        "WNID",
        "words",
        "gloss",
        "num_children",
        "children",
        "wordnet_height",
        "num_train_images",
    )
    rows = [
        (1, "n01440764", "tench, Tinca tinca", "freshwater dace-like game fish", 0, np.zeros(0), 0, 1300),
        (2, "n01443537", "goldfish, Carassius auratus", "small golden or orange-red fish", 0, np.zeros(0), 0, 1300),
        (1001, "n00001740", "entity", "that which is perceived", 2, np.array([1, 2]), 19, 0),
    ]
    synsets = np.empty((len(rows), 1), [(name, object) for name in names])
    synsets[:, 0] = rows
    kit = folder / "ILSVRC2012_devkit_t12" / "data"
    kit.mkdir(parents=True)
    savemat(kit / "meta.mat", {"synsets": synsets})
    write(kit / "ILSVRC2012_validation_ground_truth.txt", "2\n1\n")
    draw(folder / "val" / "ILSVRC2012_val_00000001.JPEG", "orange")
    draw(folder / "val" / "ILSVRC2012_val_00000002.JPEG", "green")


def kinetics(folder: Path) -> None:
    rows = ['"riding a bike",0wR5jVB-WPk,417,427,val', "air drumming,3caPS4FHFF8,36,46,val"]
    write(folder / "kinetics400" / "validate.csv", "\n".join(["label,youtube_id,time_start,time_end,split", *rows]))
    put(folder / "val" / "0wR5jVB-WPk_000417_000427.mp4", 0)
    put(folder / "val" / "3caPS4FHFF8_000036_000046.mp4", 1)


def kinetics_lists(folder: Path) -> None:
    kinetics(folder)
    shutil.rmtree(folder / "kinetics400")
    lines = ["air_drumming/3caPS4FHFF8_000036_000046.mp4 0", "riding_a_bike/0wR5jVB-WPk_000417_000427.mp4 2"]
    write(folder / "kinetics400_val_list_videos.txt", "\n".join(lines))
    write(folder / "label_map_k400.txt", "air drumming\narchery\nriding a bike\n")


def kinetics_numbers(folder: Path) -> None:
    kinetics(folder)
    shutil.rmtree(folder / "kinetics400")
    write(folder / "val.csv", "3caPS4FHFF8_000036_000046.mp4 1\n0wR5jVB-WPk_000417_000427.mp4 0\n")
    write(folder / "kinetics_classnames.json", {'"riding a bike"': 0, "archery": 2, '"air drumming"': 1})


def kinetics_folders(folder: Path) -> None:
    put(folder / "val" / "riding_a_bike" / "0wR5jVB-WPk_000417_000427.mp4", 0)
    put(folder / "val" / "air_drumming" / "3caPS4FHFF8_000036_000046.mp4", 1)


def ucf101(folder: Path) -> None:
    lists = folder / "ucfTrainTestlist"
    write(lists / "classInd.txt", "1 ApplyEyeMakeup\n2 YoYo\n3 Archery\n")
    write(lists / "testlist01.txt", "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi\nYoYo/v_YoYo_g01_c01.avi\n")
    write(lists / "trainlist01.txt", "YoYo/v_YoYo_g08_c01.avi 2\n")
    put(folder / "UCF-101" / "ApplyEyeMakeup" / "v_ApplyEyeMakeup_g01_c01.avi", 0)
    put(folder / "UCF-101" / "YoYo" / "v_YoYo_g01_c01.avi", 1)


def hmdb51(folder: Path) -> None:
    lists = folder / "testTrainMulti_7030_splits"
    name = "April_09_brush_hair_u_nm_np1_ba_goo_0.avi"
    write(lists / "brush_hair_test_split1.txt", f"{name} 2 \nOther_brush_hair.avi 1 \nUnused_brush_hair.avi 0 \n")
    write(lists / "cartwheel_test_split1.txt", "Acrobacias_cartwheel_f_cm_np1_ba_bad_8.avi 2 \n")
    put(folder / "brush_hair" / name, 0)
    put(folder / "cartwheel" / "Acrobacias_cartwheel_f_cm_np1_ba_bad_8.avi", 1)
