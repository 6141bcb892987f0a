"""A page of existing captions."""

from collections.abc import Iterable
from pathlib import Path

from ..errors import UsageError
from ..files import io_errors
from ..overwrite import check_paths, refuse_foreign, write_output
from ..parsing import parse_json, read_errors
from ..report.page import load_jinja, make_page
from ..reporting import SILENT, Reporter
from ..requests import ReportRequest
from .records import Outcome, Record, from_json


def report(request: ReportRequest, reporter: Reporter = SILENT) -> None:
    """Write a page of captions.

    Raises:
        UsageError: The captions are not those of coca, the index does not fit them, or the output would replace a file
            that coca did not write.
        CocaError: The page cannot be written.
    """
    load_jinja()
    output = request.output
    if output.suffix.lower() != ".html":
        raise UsageError(f"{output} must end in .html")
    check_paths([(f"-o {output}", output)], [request.records])
    if not request.overwrite:
        refuse_foreign(output)
    outcomes = read_outcomes(request.records)
    write_page(output, outcomes, request.records.name, request.index, request.root, reporter)
    reporter.note(f"wrote {len(outcomes)} records to {output}")


def write_page(
    path: Path,
    outcomes: Iterable[Outcome],
    title: str,
    index: Path | None = None,
    root: Path | None = None,
    reporter: Reporter = SILENT,
) -> None:
    """Write a page of records. See `report.page.make_page`.

    Raises:
        UsageError: The index is damaged or holds none of the records.
        CocaError: The page cannot be written.
    """
    outcomes = list(outcomes)
    if not any(isinstance(outcome, Record) for outcome in outcomes):
        index = None
    page = make_page([outcome.fields() for outcome in outcomes], title, index, root, reporter)
    with io_errors("write", path), write_output(path) as (file,):
        file.write(page.encode())


def read_outcomes(path: Path) -> list[Outcome]:
    """Read the records of a .jsonl file.

    Raises:
        UsageError: A line is not a record of `coca caption`, or there is none.
    """
    outcomes = []
    with read_errors(path), path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            where = f"line {number} of {path}"
            try:
                outcomes.append(from_json(parse_json(line)))
            except UsageError as error:
                raise UsageError(f"{where}: {error.message}") from None
            except (KeyError, TypeError, ValueError):
                raise UsageError(f"{where} is not a record of coca caption", "coca caption -o out.jsonl") from None
    if not outcomes:
        raise UsageError(f"{path} holds no records")
    return outcomes
