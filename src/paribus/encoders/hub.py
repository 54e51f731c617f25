"""Push a checkpoint to the Hugging Face hub, in one commit, with its model card; and fetch one from there."""

import re
import tempfile
from pathlib import Path

from paribus.encoders.card import model_card
from paribus.encoders.folders import Loaded, write_paribus
from paribus.encoders.published import load
from paribus.errors import UserError
from paribus.results import Results

CARD = "README.md"
REFUSALS = {
    401: "the hub does not know the token (401): log in with `hf auth login`, or set HF_TOKEN",
    403: "the token may not write there (403): take one with write access, or another repository",
    404: "the hub does not know the owner (404): look at its name",
}


def push(
    folder: Path,
    repo: str,
    *,
    private: bool = False,
    results: Results | None = None,
    arm: str | None = None,
    endpoint: str | None = None,
    token: str | None = None,
) -> str:
    """Upload a checkpoint's folder and a generated README.md to ``repo``, made if it is not there.

    A stage of a study is pushed in our own format, without its records.

    Args:
        folder: a checkpoint in any format that Paribus reads; it is read before anything is sent.
        repo: ``owner/name``.
        private: whether a new repository is to be private.
        results: of the study, for the card.
        arm: which arm of the study it is, where the folder does not say.
        endpoint: the hub; None is HF_ENDPOINT or huggingface.co.
        token: None is HF_TOKEN or what `hf auth login` stored.

    Returns:
        The commit's address.

    Raises:
        UserError: the folder is no checkpoint, there is no token, or the hub refuses or cannot be reached.
    """
    loaded = load(folder)
    card = model_card(loaded, repo, results, arm)
    with tempfile.TemporaryDirectory() as scratch:
        files = _files(loaded, folder, Path(scratch))
        return _commit(files, card, repo, private, endpoint, token)


def _files(loaded: Loaded, folder: Path, scratch: Path) -> dict[str, Path]:
    """Name in the repository -> file."""
    if loaded.about.format == "stage":
        folder = scratch / "encoder"
        write_paribus(loaded.encoder, folder, loaded.about.trained)
    paths = {path.relative_to(folder): path for path in sorted(folder.rglob("*")) if path.is_file()}
    shown = {
        name: path for name, path in paths.items() if not any(part.startswith(".") for part in name.parts)
    }
    return {name.as_posix(): path for name, path in shown.items() if name.as_posix() != CARD}


def _commit(
    files: dict[str, Path], card: str, repo: str, private: bool, endpoint: str | None, token: str | None
) -> str:
    from huggingface_hub import CommitOperationAdd, HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    api = HfApi(endpoint=endpoint, token=token or get_token(), library_name="paribus")
    if api.token is None:
        raise UserError("There is no token for the hub: log in with `hf auth login`, or set HF_TOKEN.")
    added = [CommitOperationAdd(name, path) for name, path in files.items()]
    added.append(CommitOperationAdd(CARD, card.encode()))
    try:
        api.create_repo(repo, private=private or None, exist_ok=True)
        done = api.create_commit(repo, added, commit_message="Upload an encoder with Paribus")
    except HFValidationError as error:
        raise UserError(f"{repo!r} is no name of a repository: give OWNER/NAME.") from error
    except OfflineModeIsEnabled as error:
        raise UserError(f"Cannot push to {repo}: HF_HUB_OFFLINE is set, so unset it.") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        why = REFUSALS.get(status, f"the hub answered {status}: {_first(error)}")
        raise UserError(f"Cannot push to {repo}: {why}.") from error
    except Exception as error:  # of whichever HTTP client huggingface_hub has
        raise UserError(
            f"Cannot push to {repo}: {api.endpoint} cannot be reached ({_first(error)})."
        ) from error
    return str(done.commit_url)


def _first(error: Exception) -> str:
    """The first line of what an error says."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


NAMED = re.compile(r"([\w.-]+/[\w.-]+?)(?:@([\w./-]+))?")
WANTED = ["*.json", "*.safetensors", "pytorch_model.bin", "*.txt", "*.model"]
"""What of a model's repository is fetched; pickles are read without running what is in them."""


def fetched(name: str) -> Path:
    """The folder of a model of the hub, fetched once.

    Args:
        name: ``OWNER/NAME`` or ``OWNER/NAME@REVISION``.

    Raises:
        UserError: it is no such name, or the hub cannot be reached or does not have it.
    """
    named = NAMED.fullmatch(name)
    if named is None:
        raise UserError(f"There is no folder {name}: give a checkpoint's folder, or a model as OWNER/NAME.")
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(named[1], revision=named[2], allow_patterns=WANTED, library_name="paribus")
        )
    except Exception as error:  # of whichever HTTP client huggingface_hub has
        said = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(
            f"There is no folder {name}, and no model of that name can be fetched from the hub "
            f"({said.rstrip('.')}): give the folder of a checkpoint."
        ) from error
