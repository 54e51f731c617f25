"""Data sets of the Hugging Face hub: their wanted files, fetched once into the hub's own cache."""

import re
from collections.abc import Sequence
from pathlib import Path

from paribus.errors import UserError

_DATASET = re.compile(r"([\w.-]+/[\w.-]+?)(?:@([\w./-]+))?")


def fetch_dataset(named: str, wanted: Sequence[str], remedy: str) -> Path:
    """The folder of a data set's files.

    Args:
        named: ``OWNER/NAME`` or ``OWNER/NAME@REVISION``.
        wanted: patterns of the files to fetch.
        remedy: what else a person may write, as the end of a sentence: "set path to a folder".

    Raises:
        UserError: this is no such name, or the hub cannot be reached or does not have it.
    """
    found = _DATASET.fullmatch(named)
    if found is None:
        raise UserError(f"There is no {named}: {remedy}, or to a data set of the hub as OWNER/NAME.")
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                found[1],
                repo_type="dataset",
                revision=found[2],
                allow_patterns=list(wanted),
                library_name="paribus",
            )
        )
    except Exception as error:  # of whichever HTTP client huggingface_hub has
        said = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(
            f"There is no file or folder {named}, and no data set of that name can be fetched from the hub "
            f"({said.rstrip('.')}): {remedy}."
        ) from error
