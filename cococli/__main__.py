"""`python -m cococli` is `coca`."""

from .cli.main import run

if __name__ == "__main__":
    run()
