"""What is known of names on the Hugging Face hub without waiting long: whether they can be had, what of them is here.

The hub's own client tries for 23 s to reach a hub that is not there.
"""

import time
from pathlib import Path

from methods.parts import glue

VOCABULARIES = ("tokenizer.json", "vocab.txt")
"""The files of which a tokenizer needs one."""
TRIES = 2
"""A name that is not resolved once may be the next time."""
PAUSE_S = 1.0


def check_reachable(name: str) -> None:
    """Makes sure that a checkpoint is in a folder or in the hub's cache, or that the hub answers at all.

    Raises:
        ValueError: the hub cannot be reached; says where it was looked for.
    """
    if Path(name).exists() or Path(name).is_absolute() or name.startswith(".") or _cached(name, "config.json"):
        return
    from huggingface_hub import hf_hub_url  # slow to import
    from huggingface_hub.errors import HFValidationError

    try:
        url = hf_hub_url(name, "config.json")
    except HFValidationError:
        return  # no name of a model; told by who reads the checkpoint
    _ask(url, f"{name}: found no such folder, nothing in the hub's cache")


def check_data_reachable(name: str) -> None:
    """The same for a task whose rows come from the hub; any other name is left alone.

    Raises:
        ValueError: the hub cannot be reached.
    """
    entry = glue.find(name)
    if entry is None and "/" not in name:
        return
    from datasets.config import HF_DATASETS_CACHE  # slow to import, but needed anyway for such a task
    from huggingface_hub import hf_hub_url

    repository = entry.hub_path if entry else "/".join(name.split("/")[:2])
    if (Path(HF_DATASETS_CACHE) / repository.replace("/", "___")).exists():
        return
    _ask(
        hf_hub_url(repository, "README.md", repo_type="dataset"), f"{name}: found no `data`, nothing in the hub's cache"
    )


def _ask(url: str, otherwise: str) -> None:
    """Asks the hub for a file's size; whatever it answers, it is there.

    Waits as long for the answer as the hub's own client does (`HF_HUB_ETAG_TIMEOUT`, 10 s), so a slow network is not
    refused; a hub that fails at once is asked once more.
    """
    from huggingface_hub import constants, get_hf_file_metadata
    from huggingface_hub.errors import HfHubHTTPError

    for attempt in range(TRIES):
        began_s = time.monotonic()
        try:
            get_hf_file_metadata(url, timeout=constants.HF_HUB_ETAG_TIMEOUT)
            return
        except HfHubHTTPError:
            return  # what the hub says to this name is told by who reads it
        except Exception as error:  # whatever HTTP client the hub's library uses has errors of its own
            if attempt + 1 == TRIES or time.monotonic() - began_s > PAUSE_S:
                reason = " ".join(str(error).split())
                raise ValueError(f"{otherwise}, and no answer from {constants.ENDPOINT}: {reason}") from error
            time.sleep(PAUSE_S)


def tokenizer_at_hand(name: str) -> Path | None:
    """The folder of a checkpoint's tokenizer, if it is on this machine.

    Args:
        name: a folder, or a name on the hub; empty for none.
    """
    if not name:
        return None
    folder = Path(name)
    if folder.is_dir():
        return folder if any((folder / file).is_file() for file in VOCABULARIES) else None
    return next((path.parent for file in VOCABULARIES if (path := _cached(name, file))), None)


def _cached(name: str, file: str) -> Path | None:
    """A file of the hub's cache."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, file)
    except HFValidationError:
        return None
    return Path(found) if isinstance(found, str) else None
