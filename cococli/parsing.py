"""JSON and TOML that people and other programs write: errors are one line with the file and the field."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from .errors import UsageError
from .files import check_regular
from .urls import RemotePath

if TYPE_CHECKING:
    from pydantic import TypeAdapter

T = TypeVar("T")


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"it holds {constant}")


_KINDS = {str: "a text", int: "a number", float: "a number", list: "a list"}
_DECODER = json.JSONDecoder(parse_constant=_refuse)


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        UsageError: It cannot be read, or is not JSON.
    """
    with read_errors(path):
        return parse_json(path.read_text("utf-8-sig"))


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        UsageError: It cannot be read, or is not TOML.
    """
    import tomllib

    with read_errors(path, "TOML", 'put text in quotes: model = "vit-l-14"'):
        try:
            return tomllib.loads(path.read_text("utf-8-sig"))
        except RecursionError:
            raise ValueError("it is nested too deeply") from None


def parse_json(text: str | bytes) -> Any:
    """Parse JSON without NaN and infinities, which Python's own parser accepts.

    Raises:
        ValueError: The text is not JSON.
    """
    try:
        return _DECODER.decode(text.decode("utf-8-sig") if isinstance(text, bytes) else text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def validate(value: Any, expected: type[T], where: str, hint: str = "") -> T:
    """Convert parsed JSON or TOML to a type: a dataclass, a TypedDict, or anything else that pydantic knows.

    Use `pydantic.FiniteFloat` for numbers: 1e999 is valid JSON.

    Args:
        where: What the value is, such as `line 3 of out.jsonl`.

    Raises:
        UsageError: A field is missing or has another type.
    """
    from pydantic import ValidationError

    try:
        valid: T = _adapter(expected).validate_python(value)  # type: ignore[arg-type]
        return valid
    except (ValidationError, OverflowError, RecursionError) as error:
        if not isinstance(error, ValidationError):
            raise UsageError(f"{where}: {error}", hint) from None
        first = error.errors(include_url=False, include_context=False)[0]
        field = ".".join(map(str, first["loc"]))
        message = first["msg"].removeprefix("Value error, ")
        message = message[:1].lower() + message[1:]
        raise UsageError(f"{where}: {f'{field!r}: ' if field else ''}{message}", hint) from None


def field(record: Any, name: str, kinds: type | tuple[type, ...], where: str) -> Any:
    """Return a field that a record must have.

    Args:
        where: What the record is, such as `images[3] of captions.json`.

    Raises:
        UsageError: The record is not an object, or the field is missing or has another type.
    """
    value = record.get(name) if isinstance(record, dict) else None
    if not isinstance(value, kinds) or isinstance(value, bool):
        wanted = " or ".join(dict.fromkeys(_KINDS[kind] for kind in (kinds if isinstance(kinds, tuple) else (kinds,))))
        raise UsageError(f"{where}: {name!r} is missing or not {wanted}")
    return value


@cache
def _adapter(expected: Any) -> "TypeAdapter[Any]":
    from pydantic import TypeAdapter

    return TypeAdapter(expected)


@contextmanager
def read_errors(path: Path, kind: str = "JSON", hint: str = "") -> Iterator[None]:
    """Report in one line why a text file cannot be read. A FIFO or a device is refused: it may never end.

    Raises:
        UsageError: It cannot.
    """
    try:
        if not isinstance(path, RemotePath):
            check_regular(path)
        yield
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from None
    except MemoryError:
        raise UsageError(f"{path} is too large for the memory of this machine") from None
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not UTF-8 text") from None
    except ValueError as error:
        raise UsageError(f"{path} is not valid {kind}: {error}", hint) from None
