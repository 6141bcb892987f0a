"""`coca finetune`: train a model on pictures or videos with captions."""

from dataclasses import replace

import typer

from .. import console
from ..requests import FinetuneRequest
from .command import command, typed


@command(
    "coca finetune --data coco/ --model vit-b-32 --epochs 3",
    "coca finetune --data clips/captions.csv --frames multi --lora 8",
    "coca finetune --data coco/ --from-scratch --config vit-b-32 --steps 10000",
)
def finetune(request: FinetuneRequest, reporter: console.ConsoleReporter, context: typer.Context) -> None:
    """Train a model on pictures or videos with captions and print the name of the new one.

    An interrupted run resumes where it stopped when the same command is given again.
    """
    from ..training.finetune import check, finetune
    from ..training.parallel import join

    request = _prefer_typed(request, context)
    check(request)
    workers = join()
    if workers.rank:
        console.be_quiet()
    run = finetune(request, reporter, workers)
    if workers.stop(reporter.stop_requested):
        raise KeyboardInterrupt
    if not workers.rank:
        reporter.note(f"coca caption VIDEOS --model run:{run}")
        console.result(f"run:{run}")


def _prefer_typed(request: FinetuneRequest, context: typer.Context) -> FinetuneRequest:
    """Drop settings of the environment and config.toml that exclude a flag on the command line."""
    if request.from_scratch and not typed(context, "model"):
        request = replace(request, model=None)
    if typed(context, "epochs") and not typed(context, "steps"):
        request = replace(request, steps=None)
    elif request.steps is not None and not typed(context, "epochs"):
        request = replace(request, epochs=None)
    return request
