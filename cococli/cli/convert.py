"""`coca convert`: open_clip's weights to MindSpore's, and back."""

from .. import console
from ..checkpoints.fetch_options import ConvertRequest
from ..files import format_size
from .command import command


@command(
    "coca convert epoch_3.pt mine.ckpt",
    "coca convert epoch_3.pt mine.ckpt --half --verify",
    "coca convert vit-l-14 weights.safetensors --to open_clip",
)
def convert(request: ConvertRequest, reporter: console.ConsoleReporter) -> None:
    """Convert open_clip weights to MindSpore, or back. Prints the path of the new file."""
    from ..checkpoints.convert import convert as convert_weights

    conversion = convert_weights(request, reporter)
    verified = ", verified" if request.verify else ""
    reporter.note(f"{conversion.parameters / 1e6:.1f} million parameters, {format_size(conversion.size)}{verified}")
    console.result(str(conversion.path))
