"""URLs are named without their secrets, and stay whole where they are read."""

import pickle

import pytest

from cococli.urls import path_of, public_name, remote_path


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://host/a.mp4?X-Amz-Date=1&X-Amz-Signature=2&X-Amz-Security-Token=3", "https://host/a.mp4"),
        ("https://host/a.mp4?Expires=1&Signature=2&Key-Pair-Id=3&Policy=4", "https://host/a.mp4"),
        ("https://host/a.mp4?x-goog-credential=a%40b&GoogleAccessId=c", "https://host/a.mp4"),
        ("https://host/c/a.mp4?sv=2024&st=1&se=2&sr=b&sp=r&sig=s%2F%3D", "https://host/c/a.mp4"),
        ("https://host/a.png?ex=1&is=2&hm=3&width=9", "https://host/a.png?width=9"),
        ("https://host/watch?v=abc&access_token=x&t=3#play", "https://host/watch?v=abc&t=3"),
        ("https://host/get?id=7&apikey=x&%74oken=y&author=me&st=4", "https://host/get?id=7&author=me&st=4"),
        ("HTTP://me:word@host:80/a?", "HTTP://host:80/a?"),
        ("s3://bucket/a//b #1?.mp4", "s3://bucket/a//b #1?.mp4"),
        ("abfs://box@account.dfs.core.windows.net/a", "abfs://box@account.dfs.core.windows.net/a"),
        ("ftp://me:word@host/a", "ftp://me@host/a"),
    ],
)
def test_names_hold_no_secrets(url: str, name: str) -> None:
    path = remote_path(url)
    assert (public_name(url), str(path), path.url) == (name, name, url)
    assert repr(path) == f"RemotePath({name!r})"


def test_paths_survive_pickling_and_pathlib() -> None:
    path = remote_path("https://host/b//a.MP4?v=1&token=x", "7")
    copy = pickle.loads(pickle.dumps(path))
    assert (str(copy), copy.url, copy.version) == (str(path), path.url, "7")
    assert (path.suffix, path.name, str(path.with_name("c"))) == (".MP4", "a.MP4?v=1", "https://host/b/c")
    assert (str(path.parent / "d"), path.parent.version) == ("https://host/b/d", "")


def test_existing_files_are_no_urls(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert hasattr(path_of("s3://a.mp4"), "url")
    (tmp_path / "s3:").mkdir()
    (tmp_path / "s3:/a.mp4").touch()
    assert not hasattr(path_of("s3://a.mp4"), "url")
