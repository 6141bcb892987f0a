"""Hugging Face's shared download cache (HF_HOME). Its layout is private to huggingface_hub: only this module knows it.

models--ORG--NAME/blobs/ETAG               content of a file
models--ORG--NAME/snapshots/COMMIT/FILE    link to its blob; the file itself where links are impossible
models--ORG--NAME/refs/REVISION            commit of a branch or tag
.locks/models--ORG--NAME/ETAG.lock         held during the download of a blob
"""

import os
from pathlib import Path
from typing import NamedTuple

from ..files import write_atomically


class CachedFile(NamedTuple):
    """A file in the cache; its etag is empty where the cache holds no links."""

    path: Path
    commit: str
    etag: str


def find_file(repository: str, revision: str, name: str) -> CachedFile | None:
    """Find a file by a revision that was downloaded earlier."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository, name, revision=revision)
    if not isinstance(found, str):
        return None
    path = Path(found)
    etag = path.readlink().name if path.is_symlink() else ""
    return CachedFile(path, path.parents[name.count("/")].name, etag)


def possible_copies(repository: str, commit: str, name: str, etag: str) -> tuple[Path, ...]:
    """Return the paths at which a file may be, if this or another program has downloaded it."""
    storage = _storage(repository)
    return storage / "snapshots" / commit / name, storage / "blobs" / etag


def blob_and_lock(repository: str, etag: str) -> tuple[Path, Path]:
    """Return where to download a file, and the lock to hold meanwhile."""
    storage = _storage(repository)
    return storage / "blobs" / etag, storage.parent / ".locks" / storage.name / f"{etag}.lock"


def add_file(repository: str, revision: str, commit: str, name: str, etag: str) -> Path:
    """Make a downloaded blob visible to every program: by revision, then by commit and name. Return its path.

    `hf_hub_download` would query the hub again for that, and download again if the revision has moved on meanwhile.
    """
    storage = _storage(repository)
    blob, link = storage / "blobs" / etag, storage / "snapshots" / commit / name
    link.parent.mkdir(parents=True, exist_ok=True)
    if not (link.exists() and link.samefile(blob)):
        link.unlink(missing_ok=True)
        try:
            link.symlink_to(os.path.relpath(blob, link.parent))
        except OSError:
            blob.replace(link)
    if revision != commit:
        ref = storage / "refs" / revision
        ref.parent.mkdir(parents=True, exist_ok=True)
        with write_atomically(ref) as (file,):
            file.write(commit.encode())
    return link


def _storage(repository: str) -> Path:
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repository, repo_type="model")
