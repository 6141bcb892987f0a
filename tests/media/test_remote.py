"""Remote files are downloaded to be read: retried, resumed, and described by a reason when they fail."""

from pathlib import Path
from tempfile import gettempdir

import pytest
from remote_servers import EXAMPLES, S3, TOKEN, WebServer

from cococli import stores
from cococli.errors import UsageError, VideoError
from cococli.files import member_path
from cococli.media import remote
from cococli.media.discover import discover
from cococli.media.remote import local_copy
from cococli.options import FileOptions
from cococli.urls import remote_path

CLIP = (EXAMPLES / "moves.mp4").read_bytes()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "_PAUSE", 0)


def read(url: str) -> bytes:
    with local_copy(remote_path(url)) as copy:
        return copy.read_bytes()


def failure(url: str) -> tuple[str, bool]:
    with pytest.raises(VideoError) as caught:
        read(url)
    return caught.value.message, caught.value.transient


def test_copies_last_for_the_block(web: WebServer) -> None:
    with local_copy(remote_path(f"{web.url}/files/moves.mp4?v=1")) as copy:
        assert (copy.suffix, copy.read_bytes()) == (".mp4", CLIP)
        assert copy.is_relative_to(gettempdir())
    assert not copy.parent.exists()
    with local_copy(EXAMPLES / "moves.mp4") as copy:
        assert copy == EXAMPLES / "moves.mp4"


@pytest.mark.parametrize("kind", ["busy", "cut"])
def test_passing_failures_are_retried(web: WebServer, kind: str) -> None:
    assert read(f"{web.url}/{kind}/moves.mp4") == CLIP
    assert web.ranges == ([f"bytes={len(CLIP) // 2}-"] if kind == "cut" else [])


def test_failures_have_a_reason(web: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert failure(f"{web.url}/files/none.mp4") == ("not found (404)", False)
    assert web.requests["/files/none.mp4"] == 1
    assert failure(f"{web.url}/down/moves.mp4") == ("internal server error (500)", True)
    assert web.requests["/down/moves.mp4"] == stores.TRIES
    assert failure("http://127.0.0.1:1/a.mp4") == ("cannot connect", True)
    assert failure("http://no-such-host.invalid/a.mp4")[0] in ("no such host", "cannot connect")
    monkeypatch.setattr(remote, "IDLE", 0.05)
    remote._client.cache_clear()
    assert failure(f"{web.url}/slow/moves.mp4") == ("timed out", True)
    remote._client.cache_clear()


def test_signed_urls_may_expire(web: WebServer) -> None:
    assert read(f"{web.url}/signed/moves.mp4?X-Amz-Signature={TOKEN}") == CLIP
    assert failure(f"{web.url}/signed/moves.mp4?X-Amz-Signature=old") == ("forbidden (403)", True)


def test_members_of_tars_are_read_alone(web: WebServer, s3: S3) -> None:
    for tar in (f"{web.url}/files/moves.mp4?token=1", "s3://bucket/videos/moves.mp4"):
        member = member_path(remote_path(tar), 100, 50, "dog.jpg")
        assert "token" not in str(member) and str(member).endswith("moves.mp4/@100+50/dog.jpg")
        with local_copy(member) as copy:
            assert (copy.suffix, copy.read_bytes()) == (".jpg", CLIP[100:150])
    assert web.ranges == ["bytes=100-149"]


def test_pages_are_read_by_yt_dlp(web: WebServer) -> None:
    assert read(f"{web.url}/watch/?v=1") == CLIP


def test_s3_files_are_copied(s3: S3) -> None:
    assert read("s3://bucket/videos/moves.mp4") == CLIP
    assert failure("s3://bucket/videos/none.mp4") == ("not found (404)", False)
    assert failure("s3://no-such-bucket/a.mp4") == ("not found (404)", False)


def test_prefixes_and_patterns_of_stores_are_listed(s3: S3) -> None:
    for key in (
        "tree/a.mp4",
        "tree/.hidden/b.mp4",
        "tree/@eaDir/c.mp4",
        "tree/deep/d e#1.MP4",
        "tree/notes.txt",
        "tree/e.cr2",
    ):
        s3.client.put_object(Bucket="bucket", Key=key, Body=b"x")
    everything = ["s3://bucket/tree/a.mp4", "s3://bucket/tree/deep/d e#1.MP4"]
    for prefix in ("s3://bucket/tree/", "s3://bucket/tree", "s3://bucket/tree/**/*.[mM]*", "s3://bucket/t*/"):
        assert list(map(str, discover([prefix])[0])) == everything, prefix
    found, _ = discover(["s3://bucket/tree/"], FileOptions(exclude=("deep/**",), since="2020-01-01"))
    assert list(map(str, found)) == everything[:1]
    before = found[0].version
    s3.client.put_object(Bucket="bucket", Key="tree/a.mp4", Body=b"y")
    assert discover(["s3://bucket/tree/a*"])[0][0].version != before
    with pytest.raises(UsageError, match=r"^cannot list s3://no-such-bucket/: not found \(404\)"):
        discover(["s3://no-such-bucket/"])
    with pytest.raises(UsageError, match=r"^s3://bucket/none/ holds no file"):
        discover(["s3://bucket/none/"])


def test_other_stores_are_read_through_fsspec(tmp_path: Path) -> None:
    import fsspec

    fsspec.filesystem("memory").pipe_file("/films/a.mp4", CLIP)
    found, _ = discover(["memory://films/"])
    assert list(map(str, found)) == ["memory://films/a.mp4"]
    assert read(str(found[0])) == CLIP
    with pytest.raises(UsageError, match=r"^gs:// needs gcsfs"):
        discover(["gs://bucket/a.mp4"])
    with pytest.raises(UsageError, match=r"^cannot use hdfs://"):
        discover(["hdfs://namenode/a.mp4"])


def test_long_listings_have_several_pages(s3: S3) -> None:
    from moto.s3.models import s3_backends

    s3.client.create_bucket(Bucket="many")
    for number in range(1001):
        s3_backends["123456789012"]["aws"].put_object("many", f"{number:04}.jpg", b"")
    found = list(map(str, discover(["s3://many/"])[0]))
    assert found == [f"s3://many/{number:04}.jpg" for number in range(1001)]


def test_unexpected_errors_hide_the_url(web: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError(f"broken: {web.url}/signed/moves.mp4?X-Amz-Signature={TOKEN}")

    monkeypatch.setattr(remote._WebDownload, "go_on", fail)
    assert failure(f"{web.url}/signed/moves.mp4?X-Amz-Signature={TOKEN}") == ("unexpected: RuntimeError", False)
