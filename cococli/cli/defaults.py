"""What commands take where no flag says."""

from ..checkpoints.store import model_names

DEMO = "shapes"


def default_model() -> tuple[str, str]:
    """The model to use when none is named, and a note for the user, which may be empty.

    The only converted model is what its owner wants; without one, the bundled demo runs everywhere.
    """
    converted = [name for name in model_names() if name != DEMO]
    if len(converted) == 1:
        return converted[0], ""
    note = f"using the bundled model `{DEMO}`, which knows drawn shapes only; "
    if converted:
        return DEMO, note + f"choose another with --model: {', '.join(converted)}"
    return DEMO, note + "for real videos, `coca convert` a CoCa checkpoint and name it with --model"
