"""Fine-tuning from one request: checks, defaults and errors, before and around the run itself."""

from dataclasses import replace
from importlib.util import find_spec

from ..checkpoints.store import default_model
from ..engines.choice import no_mindspore, resolve
from ..errors import CocaError, UsageError
from ..jobs import protect_files
from ..reporting import SILENT, Reporter
from ..requests import FinetuneRequest
from .parallel import Workers, join


def finetune(request: FinetuneRequest, reporter: Reporter = SILENT, workers: Workers | None = None) -> str:
    """Train a model, or resume an interrupted run.

    Args:
        reporter: Receives every line of the run's metrics as a record.
        workers: The processes that train together, all of which call this; by default those that torchrun or msrun
            started.

    Returns:
        The name of the run. Its model is `run:NAME`.

    Raises:
        UsageError: The options contradict each other, the data is missing, or --engine mindspore without MindSpore.
        ModelError: The model to start from is missing, or none was named and none was fetched yet.
        CocaError: The loss is not a number any more, or disk or memory is full; the last checkpoint is kept.
    """
    check(request)
    workers = workers or join()
    if not workers.rank:
        protect_files([], [], log_file=request.log_file, reporter=reporter)
    reporter.checked()
    if not request.from_scratch and not request.model:
        request = replace(request, model=default_model())
        reporter.note(f"fine-tuning {request.model}; choose another with --model, or train with --from-scratch")
    if request.batch_size * request.accumulate == 1 and request.contrastive_loss:
        reporter.warning("--batch-size 1 leaves no other caption to compare with: the contrastive loss has no effect")
    from .run import train_run

    try:
        return train_run(request, reporter, workers)
    except (MemoryError, RuntimeError) as error:
        if "memory" not in str(error).lower() and not isinstance(error, MemoryError):
            raise
        hint = "--grad-checkpointing, a smaller --batch-size with --accumulate, --lock-image or --lora 8 take less"
        raise CocaError("not enough memory", hint) from None


def check(request: FinetuneRequest) -> None:
    """Raise a UsageError if options contradict each other, before anything is loaded."""
    locked = request.lock_image or request.lock_text or request.freeze != "none"
    if request.from_scratch and request.model:
        raise UsageError("--model and --from-scratch exclude each other")
    if request.config and not request.from_scratch:
        raise UsageError("--config requires --from-scratch: a model has its own architecture")
    if (
        request.caption_loss == 0
        and not request.contrastive_loss
        and not (request.from_scratch and request.contrastive_loss is None)
    ):
        raise UsageError(
            "--caption-loss-weight 0 and --contrastive-loss-weight 0 leave no loss to train with",
            "--contrastive-loss-weight 1 trains embeddings",
        )
    if request.from_scratch and (locked or request.lora):
        raise UsageError("--lock-image, --lock-text and --lora need a trained model: random weights would never change")
    if request.from_scratch and not request.config:
        raise UsageError("--from-scratch needs an architecture", "--config vit-b-32, or open_clip's config file")
    if request.unlocked_groups and not (request.lock_image or request.freeze == "vision"):
        raise UsageError("--unlocked-groups needs --lock-image")
    if request.learning_rate == 0:
        raise UsageError("--lr 0 trains nothing")
    if request.steps is not None and request.epochs is not None:
        raise UsageError("--steps and --epochs exclude each other")
    if request.epochs == 0:
        raise UsageError("--epochs 0 trains nothing", "to use the model as it is, run coca caption")
    if not request.hold_out and (request.patience or request.validate_every):
        raise UsageError("--patience and --val-frequency need held-out examples, but --hold-out is 0")
    if request.engine == "mindspore":
        _check_mindspore(request)
    else:
        resolve("torch", request.device, request.precision, request.threads)


def _check_mindspore(request: FinetuneRequest) -> None:
    """Raise a UsageError if MindSpore is missing, or does not support an option."""
    if not find_spec("mindspore"):
        raise no_mindspore("--engine mindspore")
    unsupported = {"--lora": request.lora, "--ema": request.ema, "--grad-checkpointing": request.grad_checkpointing}
    for flag, value in unsupported.items():
        if value:
            raise UsageError(f"{flag} needs --engine torch")
    if request.precision not in ("auto", "fp32"):
        raise UsageError(f"--precision {request.precision} needs --engine torch")
