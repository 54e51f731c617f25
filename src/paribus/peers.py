"""Lets torchvision be imported beside a CPU build of torch, for the packages that insist on it.

PyPI's torchvision is linked to CUDA. Beside a CPU build of torch its compiled operators do not load, and its
import fails where it registers shapes for ``nms``, which nothing here calls. transformers imports torchvision
wherever it is installed, so that one broken package would take the language models along. Paribus itself
never needs torchvision.
"""

import functools
import importlib.util

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


@functools.cache
def mend_torchvision() -> object | None:
    """Call before importing transformers, timm or open_clip; does nothing unless the import fails so.

    Returns the library of the defined schemas, which the cache keeps alive: they go when it goes.
    """
    if importlib.util.find_spec("torchvision") is None:
        return None
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error):
            raise
        import torch

        library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
        for schema in _SCHEMAS:
            library.define(schema)  # type: ignore[no-untyped-call]
        importlib.import_module("torchvision")
        return library
    return None
