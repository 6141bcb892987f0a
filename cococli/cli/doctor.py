"""`coca doctor`: what is installed and works, and how to fix what does not."""

from collections.abc import Iterator
from dataclasses import asdict
from itertools import groupby
from typing import TYPE_CHECKING

import typer

from .. import console
from ..errors import UsageError
from ..options import JsonOutput
from ..settings import config_file
from .command import command
from .config import BUILT_IN, effective_settings, toml

if TYPE_CHECKING:
    from ..doctor import Check


@command("coca doctor", "coca doctor --json", "coca doctor | tee report.txt")
def doctor(reporter: console.ConsoleReporter, context: typer.Context, as_json: JsonOutput = False) -> int:
    """Check the installation, and show how to fix its problems. Takes seconds.

    The output names no home folders, users, tokens or passwords: paste it into a bug report. The exit code is 1 if
    nothing can be captioned before a problem is fixed.
    """
    from ..doctor import diagnose, public

    checks = [*diagnose(reporter), *map(public, _configuration(context))]
    broken = any(check.status == "broken" for check in checks)
    if as_json:
        console.json_result({"ok": not broken, "checks": list(map(asdict, checks))})
        return int(broken)
    for section, group in groupby(checks, lambda check: check.section):
        console.table((section, ""), [(check.name, _value(check)) for check in group])
        console.result("")
    problems = [check for check in checks if check.status in ("problem", "broken")]
    console.result("problems" if problems else "no problems found")
    for check in problems:
        console.result(console.printable(f"{check.section}, {check.name}: {check.value}"))
        console.result(console.printable(f"  fix: {check.fix}"))
    return int(broken)


def _value(check: "Check") -> str:
    return f"{check.value} ({check.fix})" if check.status == "missing" and check.fix else check.value


def _configuration(context: typer.Context) -> "Iterator[Check]":
    """Yield the flags that do not have their built-in default, and where their values come from."""
    from ..doctor import Check

    section = "configuration"
    try:
        file = config_file()
        yield Check(section, "file", f"{file}{'' if file.exists() else ', not there'}")
        for setting in effective_settings(context):
            if setting.source != BUILT_IN:
                yield Check(
                    section, f"{setting.command} --{setting.flag}", f"{toml(setting.value)} from {setting.source}"
                )
        yield Check(section, "other flags", "built-in defaults: coca config --all")
    except (UsageError, OSError) as error:
        hint = error.hint if isinstance(error, UsageError) else "set COCA_CONFIG to another file"
        yield Check(section, "error", str(error), "broken", hint)
