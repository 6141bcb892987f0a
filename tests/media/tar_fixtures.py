"""Tars drawn by tests."""

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

from PIL import Image, ImageDraw


def write_tar(path: Path, files: Iterable[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def circle(color: str) -> bytes:
    """A PNG."""
    image = Image.new("RGB", (64, 64), "white")
    ImageDraw.Draw(image).ellipse((10, 10, 50, 50), fill=color)
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
