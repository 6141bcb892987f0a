"""What commands take where no flag says."""

from ..errors import ModelError

DEMO = "shapes"
SUGGESTED = "vit-l-14-coco"  # to who has no model yet


def default_model() -> str:
    """The model to use when none is named: the one that was fetched last.

    Raises:
        ModelError: there is none, or those that are there are damaged.
    """
    from ..checkpoints.cache import models, newest

    name = newest()
    if name is None:
        for model in models():
            if model.damage:
                raise model.damage
        raise ModelError("no model is here yet", f"{to_get(SUGGESTED)}; or try the bundled demo: --model {DEMO}")
    return name


def to_get(name: str) -> str:
    """The size of a model and the command that fetches it."""
    from ..checkpoints.manifest import humanized
    from ..checkpoints.store import full_size

    return f"coca fetch {name} ({humanized(full_size(name))})"
