"""JSON that others wrote: whatever is wrong with it is one line that names the file and the place."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from ..errors import UsageError

_KINDS = {str: "a text", int: "a number", list: "a list"}


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"it holds {constant}")


_DECODER = json.JSONDecoder(parse_constant=_refuse)


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        UsageError: it cannot be read, or is no JSON.
    """
    with told(path):
        return parse(path.read_text("utf-8-sig"))


def parse(text: str) -> Any:
    """JSON without NaN and infinities, which Python's own parser lets through.

    Raises:
        ValueError: it is none.
    """
    try:
        return _DECODER.decode(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def field(record: Any, name: str, kinds: type | tuple[type, ...], where: str) -> Any:
    """A field that a record must have.

    Args:
        where: What the record is, as in `images[3] of captions.json`.

    Raises:
        UsageError: the record is none, or the field is missing or of another kind.
    """
    value = record.get(name) if isinstance(record, dict) else None
    if not isinstance(value, kinds) or isinstance(value, bool):
        wanted = " or ".join(_KINDS[kind] for kind in (kinds if isinstance(kinds, tuple) else (kinds,)))
        raise UsageError(f"{where}: {name!r} is missing or not {wanted}")
    return value


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Why a file cannot be read, in one line.

    Raises:
        UsageError: it cannot.
    """
    try:
        yield
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from None
    except MemoryError:
        raise UsageError(f"{path} is too large for the memory of this machine") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path} is no UTF-8 text") from None
    except ValueError as error:
        raise UsageError(f"{path} is no JSON: {error}") from None
