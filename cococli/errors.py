"""Errors that a user can act on, each with the next step."""

import errno

_TRANSIENT = frozenset(
    {
        *(errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.EINTR, errno.EBUSY),
        *(errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN, errno.EHOSTUNREACH),
        *(errno.ENETDOWN, errno.ENETUNREACH, errno.ENOLCK),
    }
)


class CocaError(Exception):
    """A problem that the user can fix. Printed as `error: message` and, when given, `hint`.

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
    """A video or picture that cannot be read. The others are not affected.

    Args:
        transient: The machine is at fault rather than the file, so that the next run should try again.
    """

    def __init__(self, message: str, hint: str = "", transient: bool = False) -> None:
        super().__init__(message, hint)
        self.transient = transient


_NO_MEMORY = (
    "out of memory",
    "not enough memory",
    "allocate memory",
    "alloc_failed",
    "bad_alloc",
    "failed to allocate",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether a computation failed for lack of memory, which frameworks report as a RuntimeError."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(s in text for s in _NO_MEMORY))


def is_transient(error: BaseException | None) -> bool:
    """Return whether an error or its cause is due to the machine's state, such as too many open files."""
    while error:
        # Of the system itself: FFmpeg's own errors call damage an input/output error, too.
        if isinstance(error, OSError) and type(error).__module__ == "builtins" and error.errno in _TRANSIENT:
            return True
        if isinstance(error, VideoError) and error.transient:
            return True
        error = error.__context__
    return False
