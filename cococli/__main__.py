"""The `coca` command, also as `python -m cococli`."""

import signal


def run() -> None:
    """Run the command line. Until it is imported, Ctrl-C ends the process without a traceback."""
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from .cli import main

    main.run()


if __name__ == "__main__":
    run()
