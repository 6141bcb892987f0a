"""Metadata that depends on where the repository is hosted; everything else is in pyproject.toml.

COCA_URL is the address of the repository, which the release workflow sets. With it, links of the README lead to the
repository at the tag of this version, and there are project URLs. Without it, links to files become plain text: PyPI
could not follow them.
"""

import os
import re
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent
URL = os.environ.get("COCA_URL", "").rstrip("/")
VERSION = re.search('^__version__ = "(.*)"', (ROOT / "cococli/__init__.py").read_text(encoding="utf-8"), re.MULTILINE)[
    1
]


def readme() -> str:
    """Return the README with links that work on a page elsewhere, without the marks of `make bench`."""
    text = re.sub("<!--.*?-->", "", (ROOT / "README.md").read_text(encoding="utf-8"))
    if URL:
        text = re.sub(r"(!\[[^]]*\]\()(?!https?:)", rf"\1{URL}/raw/v{VERSION}/", text)
        return re.sub(r"(?<!!)(\[[^]]*\]\()(?!https?:)", rf"\1{URL}/blob/v{VERSION}/", text)
    text = re.sub(r"!\[[^]]*\]\((?!https?:)[^)]*\)\n*", "", text)
    return re.sub(r"\[([^]]*)\]\((?!https?:)[^)]*\)", r"\1", text)


pages = {
    "Homepage": "",
    "Documentation": "/tree/main/docs",
    "Changelog": "/blob/main/CHANGELOG.md",
    "Issues": "/issues",
}
setup(
    long_description=readme(),
    long_description_content_type="text/markdown",
    project_urls={name: URL + page for name, page in pages.items()} if URL else {},
)
