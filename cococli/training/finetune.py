"""Fine-tuning from one request: checks, defaults and errors, before and around the run itself."""

from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING

from ..checkpoints.store import default_model
from ..engines.choice import no_mindspore
from ..errors import CocaError, UsageError
from ..jobs import protect_files
from ..reporting import SILENT, Reporter
from ..requests import FinetuneRequest

if TYPE_CHECKING:
    from .parallel import Workers


def finetune(request: FinetuneRequest, reporter: Reporter = SILENT, workers: "Workers | None" = None) -> str:
    """Train a model, or resume an interrupted run.

    Args:
        reporter: Receives every line of the run's metrics as a record.
        workers: The processes that train together, all of which call this; by default those that msrun started.

    Returns:
        The name of the run. Its model is `run:NAME`.

    Raises:
        UsageError: The options contradict each other, the data is missing, or MindSpore is.
        ModelError: The model to start from is missing, or none was named and none was fetched yet.
        CocaError: The loss is not a number any more, or disk or memory is full; the last checkpoint is kept.
    """
    workers = workers or join_workers()
    check(request)
    if not workers.rank:
        protect_files([], [], log_file=request.log_file, reporter=reporter)
    reporter.checked()
    if not request.from_scratch and not request.model:
        request = replace(request, model=default_model())
        reporter.note(f"fine-tuning {request.model}; choose another with --model, or train with --from-scratch")
    if request.batch_size == 1 and request.contrastive_loss:
        reporter.warning("--batch-size 1 leaves no other caption to compare with: the contrastive loss has no effect")
    from .run import train_run

    try:
        return train_run(request, reporter, workers)
    except (MemoryError, RuntimeError) as error:
        if "memory" not in str(error).lower() and not isinstance(error, MemoryError):
            raise
        hint = "a smaller --batch-size with --accumulate, --freeze vision, --contrastive 0 or --lora 8 take less"
        raise CocaError("not enough memory", hint) from None


def join_workers() -> "Workers":
    """Join the processes that msrun started, if any; see `parallel.join`."""
    if not find_spec("mindspore"):
        raise no_mindspore("coca finetune")
    from .parallel import join

    return join()


def check(request: FinetuneRequest) -> None:
    """Raise a UsageError if options contradict each other, before anything is loaded."""
    if request.from_scratch and request.model:
        raise UsageError("--model and --from-scratch exclude each other")
    if request.config and not request.from_scratch:
        raise UsageError("--config requires --from-scratch: a model has its own architecture")
    if not request.caption_loss and not request.contrastive_loss:
        raise UsageError("--caption 0 and --contrastive 0 leave no loss to train with")
    if request.from_scratch and (request.freeze != "none" or request.lora):
        raise UsageError("--freeze and --lora need a trained model: random weights would never change")
    if request.from_scratch and not request.config:
        raise UsageError("--from-scratch needs an architecture", "--config vit-b-32, or open_clip's config file")
    if request.precision != "fp32" and on_cpu():
        why = "MindSpore has no bf16 matrix product on CPU, and its fp16 is no faster than fp32"
        raise UsageError(f"--precision {request.precision} needs an Ascend: {why}")
    if request.learning_rate == 0:
        raise UsageError("--lr 0 trains nothing")
    if request.steps is not None and request.epochs is not None:
        raise UsageError("--steps and --epochs exclude each other")
    if request.epochs == 0:
        raise UsageError("--epochs 0 trains nothing", "to use the model as it is, run coca caption")
    if not request.hold_out and (request.patience or request.validate_every):
        raise UsageError("--patience and --validate-every need held-out examples, but --hold-out is 0")


def on_cpu() -> bool:
    """Return whether MindSpore computes on the CPU."""
    import mindspore

    return bool(mindspore.get_context("device_target") == "CPU")
