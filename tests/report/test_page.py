"""The page of results, in a real browser."""

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
from report.page_fixtures import PICTURE, make_records

from cococli.report.page import embed_json

expect = pytest.importorskip("playwright.sync_api", reason="needs playwright").expect

CARDS = "#cards article"
HOSTILE = (
    "<img src=x onerror=\"window.hacked='image'\">",
    "</script><script>window.hacked='script'</script>",
    "<!--<script>",
    "]]>&lt;b&gt;${1}`'\"\\u003c",
    "a cat\nand\u2028a dog\u2029",
    "كلب يقفز \u202egpj.exe",
    "👩‍👩‍👧‍👦 family 🦄",
    "javascript:window.hacked='url'",
    "lone \udcff surrogate",
)


def captions(page: Any) -> Any:
    return page.locator(f"{CARDS} .caption")


def selected(page: Any) -> str:
    return page.evaluate("store.selected?.caption ?? store.selected?.error ?? ''")


def test_filter_matches_captions_and_names(show: Any) -> None:
    page = show(60)
    page.keyboard.press("/")
    page.keyboard.type("GREEN clip 12.")
    expect(captions(page)).to_have_text(["a green square number 12"])
    expect(page.locator("#count")).to_contain_text("1 shown of 60 records")
    page.fill("#filter", "no such thing")
    expect(page.locator("#empty")).to_have_text("Nothing matches.")


def test_filter_ignores_accents_and_case(show: Any) -> None:
    records = make_records(9)
    records[3]["caption"] = "Ein Café über der Straße"
    page = show(records)
    page.fill("#filter", "CAFE uber")
    expect(captions(page)).to_have_text(["Ein Café über der Straße"])


def test_records_sort_by_score_name_and_time(show: Any) -> None:
    records = make_records(12)
    records.reverse()
    page = show(records, height=3000)
    page.select_option("#sort", "name")
    names = [record["caption"] if "caption" in record else record["error"] for record in make_records(12)]
    expect(captions(page)).to_have_text(names)
    for order, field, reverse in (("similarity-up", "similarity", False), ("logprob-down", "logprob", True)):
        page.select_option("#sort", order)
        own = sorted({record[field] for record in records if field in record}, reverse=reverse)
        shown = page.evaluate(f"store.shown.map((record) => record.{field})")
        assert list(dict.fromkeys(shown)) == own
    page.select_option("#sort", "time")
    starts = page.evaluate("store.shown.map((record) => record.start)")
    assert starts == sorted(starts)


def test_failures_come_first_on_request(show: Any) -> None:
    page = show(60)
    expect(page.locator("#count")).to_contain_text("failed")
    page.check("#failures")
    first = page.locator(CARDS).first
    expect(first).to_have_class("card failed")
    expect(first.locator(".caption")).to_have_text("not a video: invalid data")
    expect(first.locator(".frames")).to_have_text("cannot be read")


def test_missing_thumbnails_become_placeholders(show: Any) -> None:
    page = show([make_records(1)[0] | {"thumbnails": []}])
    expect(page.locator(f"{CARDS} .frames")).to_have_text("no preview")


def test_timeline_previews_and_opens_segments(show: Any) -> None:
    page = show(30)
    page.click("nav >> text=Videos")
    row = page.locator("#videos article").nth(1)
    segments = row.locator(".segment")
    expect(segments).to_have_count(3)
    thirds = [segments.nth(part).bounding_box()["width"] for part in range(3)]
    assert max(thirds) - min(thirds) < 3
    segments.nth(1).hover()
    expect(page.locator("#preview .caption")).to_have_text("a green square number 1")
    segments.nth(1).click()
    expect(page.locator("#detail h2")).to_have_text("Segment 2 of 3")
    expect(page.locator("#detail dd").nth(1)).to_have_text("0:04.0 – 0:08.0")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#detail h2")).to_have_text("Segment 3 of 3")
    page.keyboard.press("ArrowDown")
    expect(page.locator("#detail .caption")).to_have_text(
        page.evaluate("store.videos.get('videos/clip 2.mp4')[0].caption")
    )


def test_keyboard_moves_opens_and_closes(show: Any) -> None:
    page = show(100)
    columns = page.evaluate("grids.cards.columns")
    assert columns > 2
    page.keyboard.press("ArrowDown")  # the first arrow only selects
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    place = columns + 1
    assert page.evaluate("store.shown.indexOf(store.selected)") == place
    expect(page.locator(f"{CARDS}.selected")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#detail .caption")).to_have_text(selected(page))
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("store.shown.indexOf(store.selected)") == place - 1
    expect(page.locator("#detail .caption")).to_have_text(selected(page))
    page.keyboard.press("Escape")
    expect(page.locator("#detail")).to_be_hidden()
    expect(page.locator(f"{CARDS}.selected")).to_be_focused()
    page.keyboard.press("?")
    expect(page.locator("#keys")).to_contain_text("failures first")
    page.click("dialog button")
    expect(page.locator("dialog")).to_be_hidden()
    page.keyboard.press("f")
    expect(page.locator("#failures")).to_be_checked()
    page.keyboard.press("/")
    page.keyboard.type("red f?")
    expect(page.locator("#filter")).to_have_value("red f?")
    expect(page.locator("dialog")).to_be_hidden()


def test_theme_follows_the_system_until_toggled(show: Any) -> None:
    page = show(3, theme="dark")
    background = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(background)
    page.keyboard.press("t")
    light = page.evaluate(background)
    assert dark != light == show(3).evaluate(background)


def test_hostile_texts_stay_texts(show: Any) -> None:
    first = make_records(1)[0]
    records = [first | {"id": number, "video": f"v/{text}.mp4", "caption": text} for number, text in enumerate(HOSTILE)]
    candidates = [{"caption": text, "logprob": -1.0, "similarity": 0.1} for text in HOSTILE]
    records += [
        first | {"id": 90, "model": HOSTILE[0], "candidates": candidates},
        {"id": 91, "video": HOSTILE[0], "status": "error", "error": HOSTILE[1], "thumbnails": []},
    ]
    page = show(
        records,
        map={
            "method": HOSTILE[0],
            "points": [[0, 0, 0, 0], [1, 1, 1, 0]],
            "clusters": [{"label": HOSTILE[1], "x": 0.5, "y": 0.5, "count": 2}],
        },
        height=3000,
    )
    found = page.evaluate("[...document.querySelectorAll('#cards .caption')].map((one) => one.textContent)")
    assert found[: len(HOSTILE)] == list(HOSTILE)
    for view in ("Videos", "Map"):
        page.click(f"nav >> text={view}")
    for number in range(len(records)):
        page.evaluate(f"openDetails(store.records[{number}])")
    expect(page.locator("#clusters")).to_contain_text(HOSTILE[1])
    assert page.evaluate("window.hacked") is None
    assert page.evaluate("document.querySelectorAll('script').length") == 7  # data and scripts of the page
    assert page.locator("#detail dd bdi").inner_text() == HOSTILE[0]


def test_json_is_safe_inside_html() -> None:
    assert not set("<>&\u2028\u2029é") & set(embed_json(["<!-- </script> & \u2028\u2029 é"]))


def test_page_requests_nothing_and_blocks_scripts(show: Any) -> None:
    requests: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append(self.path)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        page = show(30, strict=False, on_request=requests.append)
        assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
        requests.clear()
        failures = page.evaluate(
            """async (url) => {
              const script = document.createElement("script");
              script.textContent = "window.hacked = 1";
              document.body.append(script);
              document.body.insertAdjacentHTML("beforeend", "<button onclick='window.hacked = 2'>button</button>");
              document.body.lastChild.click();
              const image = new Image();
              const failed = new Promise((resolve) => (image.onerror = () => resolve("image")));
              image.src = url;
              return Promise.all([failed, fetch(url).catch(() => "fetch")]);
            }""",
            f"http://127.0.0.1:{server.server_port}/secret",
        )
        server.shutdown()
    assert failures == ["image", "fetch"]
    assert page.evaluate("window.hacked") is None
    assert "/secret" not in requests


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_no_violations(show: Any, theme: str) -> None:
    axe = pytest.importorskip("axe_core_python.sync_playwright", reason="needs axe-core-python").Axe()
    records = [record | {"weak": True} if record["id"] % 5 == 0 else record for record in make_records(16)]
    page = show(records, map=make_map(records), theme=theme)

    def violations() -> list[str]:
        found = axe.run(page)["violations"]
        return [f"{one['id']}: {node['html'][:200]}" for one in found for node in one["nodes"]]

    assert violations() == []
    for view in ("Videos", "Map"):
        page.click(f"nav >> text={view}")
        assert violations() == []
    page.evaluate("openDetails(store.records[4])")
    assert violations() == []
    page.keyboard.press("?")
    assert violations() == []


def test_phone_width_needs_no_sideways_scrolling(show: Any) -> None:
    records = make_records(30)
    records[0] |= {"caption": "a" * 300, "video": f"videos/{'b' * 300}.mp4"}
    page = show(records, map=make_map(records), width=360, height=740, has_touch=True, is_mobile=True)
    width = "document.documentElement.scrollWidth"
    assert page.evaluate("grids.cards.columns") == 1
    for view in ("Cards", "Videos", "Map"):
        page.click(f"nav >> text={view}")
        assert page.evaluate(width) <= 360
    page.evaluate("openDetails(store.records[0])")
    assert page.evaluate(width) <= 360
    assert page.locator("#detail").bounding_box()["width"] == 360
    page.click("#close")
    expect(page.locator("#detail")).to_be_hidden()


def test_ten_thousand_records_scroll_in_few_elements(show: Any) -> None:
    page = show(10_000)
    expect(page.locator(CARDS).first).to_be_visible()
    for part in (0.25, 0.5, 0.75):
        page.evaluate(f"scrollTo(0, {part} * document.documentElement.scrollHeight)")
        page.locator(f'{CARDS}[aria-posinset="{round(part * 10_000)}"]').wait_for()
        assert page.locator(CARDS).count() < 100
    page.keyboard.press("End")
    last = page.locator(f'{CARDS}[aria-posinset="10000"]')
    expect(last).to_be_focused()
    expect(last).to_be_in_viewport()
    assert page.locator(CARDS).count() < 100


def test_map_previews_selects_and_filters_clusters(show: Any) -> None:
    records = make_records(40)
    page = show(records, map=make_map(records))
    page.click("nav >> text=Map")
    canvas = page.locator("canvas")
    first, second = (page.evaluate(f"map.screen(map.points[{number}])") for number in (0, 1))
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + first[0], box["y"] + first[1])
    expect(page.locator("#preview .caption")).to_have_text(records[0]["caption"])
    page.mouse.click(box["x"] + second[0], box["y"] + second[1])
    expect(page.locator("#detail .caption")).to_have_text(records[1]["caption"])
    page.keyboard.press("Escape")
    page.click("#clusters >> text=second")
    expect(page.locator("#count")).to_contain_text("shown of 40")
    assert set(page.evaluate("store.shown.map((record) => record.cluster)")) == {1}
    canvas.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("store.selected.cluster") == 1


def test_histograms_follow_the_filter(show: Any) -> None:
    page = show(60)
    chart = page.locator("[data-score=similarity] svg")
    expect(chart).to_have_attribute("aria-label", "Similarity of 57 records, from 0.100 to 0.550")
    page.fill("#filter", "number 12")
    expect(chart).to_have_attribute("aria-label", "Similarity of 1 records, from 0.100 to 0.550")


def test_extensions_see_updates_and_keys(show: Any) -> None:
    page = show(30)
    page.evaluate(
        """() => {
          hooks.card.push((record, card) => card.append(element("i", {}, `number ${record.id}`)));
          hooks.detail.push((record, panel) => panel.append(element("i", {}, "more")));
          hooks.keys.set("x", {help: "cross out", run: (record) => store.update(record.id, {caption: "crossed"})});
          store.add([{...store.records[0], id: "late", caption: "a late one", video: "late.mp4"}]);
          store.show({ranking: ["late", 2]});
        }"""
    )
    expect(captions(page)).to_have_text(["a late one", make_records(3)[2]["caption"]])
    expect(page.locator(f"{CARDS} i")).to_have_text(["number late", "number 2"])
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.locator("#detail i")).to_have_text("more")
    page.keyboard.press("x")
    expect(captions(page).first).to_have_text("crossed")
    expect(page.locator("#detail .caption")).to_have_text("crossed")
    page.keyboard.press("?")
    expect(page.locator("#keys")).to_contain_text("cross out")


def make_map(records: list[dict[str, Any]]) -> dict[str, Any]:
    """Place records in two clusters, on a grid."""
    shown = [record["id"] for record in records if record["status"] == "ok"]
    points = [[number, place / len(shown), place % 7 / 7, place % 2] for place, number in enumerate(shown)]
    clusters = [{"label": name, "x": 0.3, "y": y, "count": 9} for name, y in (("first", 0.2), ("second", 0.8))]
    return {"method": "PCA", "points": points, "clusters": clusters}


def test_pictures_and_odd_records_are_shown(show: Any) -> None:
    picture = make_records(1)[0] | {"start": 0.0, "end": 0.0, "similarity": None, "logprob": None, "frames": [0.0]}
    page = show([picture | {"thumbnails": [{"time": 0.0, "src": PICTURE}]}])
    expect(page.locator(f"{CARDS} .span")).to_be_empty()
    expect(page.locator(f"{CARDS} .scores")).to_have_text("similarity –log-prob –")
    page.click("nav >> text=Videos")
    expect(page.locator("#videos .source")).to_contain_text("picture")
    expect(show([]).locator("#empty")).to_have_text("No records.")
