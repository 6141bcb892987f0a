"""Errors that a user can act on: what is wrong, and the next step."""


class CocaError(Exception):
    """Something a user can mend. Printed as `error: message` and, when given, `hint`.

    Args:
        message: What is wrong, on one line.
        hint: The next step, ideally a command to type.
    """

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if hint:
            self.add_note(f"hint: {hint}")  # for tracebacks of those who use the package


class UsageError(CocaError):
    """An option or argument that cannot be right, found before any work starts."""

    exit_code = 2


class ModelError(CocaError):
    """A checkpoint that is missing, damaged or not a CoCa."""

    exit_code = 3


class VideoError(CocaError):
    """A video or picture that cannot be read. It fails alone; the others go on."""
