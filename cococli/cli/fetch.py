"""`coca fetch`: a checkpoint from the hub, or from a file, into the cache."""

from dataclasses import asdict

from .. import console
from ..checkpoints.fetch_options import FetchRequest
from ..files import format_size
from ..options import JsonOutput
from .command import command


@command("coca fetch vit-l-14-coco", "coca fetch ORG/REPO --name mine", "coca fetch vit-l-14 --from FILE")
def fetch(request: FetchRequest, reporter: console.ConsoleReporter, as_json: JsonOutput = False) -> None:
    """Download a model, convert it, verify it, and store it in the cache. Prints its name.

    Interrupted downloads resume where they stopped. HF_TOKEN, HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE are respected.
    """
    from ..checkpoints.fetch import fetch as fetch_model

    reporter.checked()
    fetched = fetch_model(request, reporter)
    size = format_size(fetched.manifest.files["model.ckpt"].size)
    reporter.note(f"{fetched.name} {'is ready' if fetched.added else 'was fetched before'}: {size}")
    if as_json:
        facts = {"name": fetched.name, "path": str(fetched.folder), "added": fetched.added}
        console.json_result(facts | asdict(fetched.manifest))
    elif not console.stdout_is_terminal():
        # The note is enough for a person.
        console.result(fetched.name)
