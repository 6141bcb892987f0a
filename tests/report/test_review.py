"""`coca review` in a real browser: edit, play, search, two tabs and live updates."""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cli.fork_server import ENVIRONMENT, run, start

expect = pytest.importorskip("playwright.sync_api", reason="needs playwright").expect
expect.set_options(timeout=30_000)

EXAMPLES = Path(__file__).parents[2] / "examples"
CARDS = "#cards article"
CAPTION = "#detail .caption"
HOSTILE = "<img src=x onerror=document.title='pwned'>.mp4"
Open = Callable[..., Any]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    home = tmp_path_factory.mktemp("home")
    places = {"COCA_HOME": str(home), "COCA_CONFIG": str(home / "config.toml")}
    return {**ENVIRONMENT, **places, "COCA_ENGINE": "torch", "COCA_PRECISION": "fp32", "COCA_MODEL": "shapes"}


@pytest.fixture(scope="module")
def captions(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Captions of the example clips in two segments each, and of one with a hostile name, with their index."""
    folder = tmp_path_factory.mktemp("review")
    (folder / "clips").mkdir()
    for clip in EXAMPLES.glob("*.mp4"):
        shutil.copy(clip, folder / "clips")
    shutil.copy(EXAMPLES / "moves.mp4", folder / "clips" / HOSTILE)
    command = ["caption", "clips", "--segments", "2", "--embed", "index/", "-o", "out.jsonl", "-q"]
    assert run(*command, cwd=folder, env=environment).returncode == 0
    return folder / "out.jsonl"


@pytest.fixture(scope="module")
def server(captions: Path, environment: dict[str, str]) -> Iterator[tuple[str, Path]]:
    """The address of a server, and the folder that it runs in."""
    arguments = ["review", "out.jsonl", "--index", "index/", "--no-browser"]
    process = start(*arguments, cwd=captions.parent, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout
    yield process.stdout.readline().strip(), captions.parent
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert process.returncode == 0


@pytest.fixture
def open_review(server: tuple[str, Path], open_page: Callable[..., Any]) -> Open:
    """Open the page, without edits of earlier tests."""
    url, folder = server
    (folder / "out.review.jsonl").unlink(missing_ok=True)

    def open_review(**options: Any) -> Any:
        page = open_page(url, **options)
        expect(page.locator("#count")).to_contain_text("12 records")
        return page

    return open_review


def edits(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "out.review.jsonl").read_text().splitlines()]


def test_edits_survive_a_reload(open_review: Open, server: tuple[str, Path]) -> None:
    folder = server[1]
    before = (folder / "out.jsonl").read_bytes()
    page = open_review()
    page.locator(CARDS, has_text="yellow triangle on a pink").click()
    page.locator(CAPTION).fill("a yellow pyramid")
    page.keyboard.press("Enter")
    expect(page.locator(".original")).to_contain_text("The model said: a large yellow triangle")
    page.keyboard.press("a")
    page.keyboard.press("r")  # of the next one
    expect(page.locator(f"{CARDS}.rejected")).to_have_count(1)
    page.reload()
    expect(page.locator("#export")).to_have_text("Export 1")
    expect(page.locator(f"{CARDS}.accepted .caption")).to_have_text("a yellow pyramid")
    expect(page.locator(f"{CARDS}.rejected")).to_have_count(1)
    saved = {(edit.get("caption"), edit.get("verdict")) for edit in edits(folder)}
    assert saved == {("a yellow pyramid", None), ("a yellow pyramid", "accepted"), (None, "rejected")}
    assert (folder / "out.jsonl").read_bytes() == before

    page.click("#export")
    page.click("[data-form=json]")
    expect(page.locator("#export-dialog code")).to_have_text("coca finetune --data out.reviewed.json")
    exported = json.loads((folder / "out.reviewed.json").read_text())
    assert [annotation["caption"] for annotation in exported["annotations"]] == ["a yellow pyramid"]
    page.keyboard.press("Escape")
    page.locator(f"{CARDS}.accepted").click()
    page.locator(CAPTION).fill("a pyramid")
    page.get_by_role("button", name="Reject").click()  # the caption is saved first
    rejected = page.locator(f"{CARDS}.rejected", has_text="a pyramid")
    expect(rejected).to_have_count(1)
    rejected.click()
    page.get_by_role("button", name="Revert").click()
    expect(page.locator(CAPTION)).to_contain_text("a large yellow triangle")


def test_video_plays_its_segment_and_seeks(open_review: Open) -> None:
    page = open_review()
    page.locator(CARDS, has_text="0:02.0 – 0:04.0").first.click()
    video = page.locator("#detail video")
    expect(video).to_have_js_property("currentTime", 2)
    page.keyboard.press("p")
    expect(video).to_have_js_property("ended", True)
    video.evaluate("video => { video.currentTime = 0.5 }")
    expect(video).to_have_js_property("seeking", False)
    assert video.evaluate("video => video.currentTime") == 0.5
    expect(page.locator("#detail video")).to_have_attribute(
        "poster", page.locator(f"{CARDS}.selected img").get_attribute("src")
    )


def test_sentences_and_dropped_pictures_find_moments(open_review: Open) -> None:
    page = open_review()
    page.keyboard.press("s")
    page.keyboard.type("a large white circle on a black background")
    page.keyboard.press("Enter")
    expect(page.locator(f"{CARDS} .caption").first).to_have_text("a large white circle on a black background")
    expect(page.locator(CARDS).first).to_contain_text("match")
    drop = """async () => {
        const record = store.records.find(({ caption }) => caption.includes("beside a yellow"));
        const frame = await (await fetch(record.thumbnails[0].src)).blob();
        const dataTransfer = new DataTransfer();
        dataTransfer.items.add(new File([frame], "<b>frame.jpg", { type: "image/jpeg" }));
        document.body.dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true }));
    }"""
    page.evaluate(drop)
    expect(page.locator(f"{CARDS} .caption").first).to_contain_text("beside a yellow")
    page.locator("#cards").click(position={"x": 1, "y": 1})
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    expect(page.locator("#count")).not_to_contain_text("shown")


def test_map_places_the_records_of_the_index(open_review: Open) -> None:
    page = open_review()
    page.keyboard.press("3")
    expect(page.locator("#method")).to_have_text("PCA")
    expect(page.locator("#status")).to_have_text("12 records on the map")
    page.locator("#clusters button").first.click()
    expect(page.locator("#count")).to_contain_text("shown of 12 records")
    page.keyboard.press("Escape")
    page.locator("#map canvas").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("a")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(page.locator("#detail video")).to_be_visible()
    page.keyboard.press("1")
    expect(page.locator(f"{CARDS}.accepted")).to_have_count(1)


def test_two_tabs_lose_no_edit(open_review: Open, server: tuple[str, Path]) -> None:
    one, other = open_review(), open_review(strict=False)  # a conflict is an error in the console
    for page in (one, other):
        page.locator(CARDS).first.click()
    other.locator(CAPTION).focus()
    other.keyboard.press("Control+A")
    other.keyboard.type("a hexagon")
    one.locator(CAPTION).fill("a circle")
    one.keyboard.press("Enter")
    expect(other.locator(f"{CARDS} .caption").first).to_have_text("a circle")  # at once
    with other.expect_response(lambda response: response.status == 409):
        other.keyboard.press("Enter")
    expect(other.locator("#notice")).to_contain_text("Edited in another tab, to “a circle”")
    expect(other.locator(CAPTION)).to_have_text("a hexagon")
    assert [edit["caption"] for edit in edits(server[1])] == ["a circle"]
    other.keyboard.press("Enter")
    expect(one.locator(CAPTION)).to_have_text("a hexagon")
    assert [edit["caption"] for edit in edits(server[1])] == ["a circle", "a hexagon"]


def test_hostile_names_and_captions_stay_text(open_review: Open) -> None:
    page = open_review()
    page.locator(CARDS, has_text=HOSTILE).first.click()
    page.locator(CAPTION).fill("</script><img src=x onerror=document.title='pwned'>")
    page.keyboard.press("Enter")
    expect(page.locator(".original")).to_be_visible()
    expect(page.locator("#detail dd bdi").first).to_contain_text(HOSTILE)
    axe = pytest.importorskip("axe_core_python.sync_playwright", reason="needs axe-core-python").Axe()
    assert [violation["id"] for violation in axe.run(page)["violations"]] == []
    page.click("#export")
    assert [violation["id"] for violation in axe.run(page)["violations"]] == []
    page.reload()
    expect(page.locator(CARDS, has_text="</script>")).to_have_count(1)
    assert page.title() == "out.jsonl"


def test_page_shows_captions_as_they_come(open_review: Open, server: tuple[str, Path]) -> None:
    page = open_review()
    with (server[1] / "out.jsonl").open("r+") as file:
        record = json.loads(file.readline())
        size = file.seek(0, os.SEEK_END)
        file.write(json.dumps(record | {"video": "clips/moves.mp4", "end": 1.0, "caption": "it just came"}) + "\n")
        file.flush()
        expect(page.locator(CARDS, has_text="it just came")).to_have_count(1)
        file.truncate(size)
    page.close()


def test_search_shows_hits_in_the_page(
    captions: Path, environment: dict[str, str], open_page: Callable[..., Any]
) -> None:
    command = ["search", "a large white circle on a black background", "index/", "-k", "2", "--show"]
    shown = {**environment, "BROWSER": "true"}
    process = start(*command, cwd=captions.parent, env=shown, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout
    page = open_page(process.stdout.readline().strip())
    expect(page.locator(f"{CARDS} .source").first).to_have_text("grows.mp40:02.0 – 0:04.0")
    expect(page.locator(CARDS)).to_have_count(2)
    page.locator(CARDS).first.click()
    expect(page.locator("#detail video")).to_have_js_property("currentTime", 2)
    page.fill("#search", "a purple triangle beside a yellow triangle")
    page.keyboard.press("Enter")
    expect(page.locator(f"{CARDS} .name").first).to_have_text("appears.mp4")
    page.close()
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert process.returncode == 0
