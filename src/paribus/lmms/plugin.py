"""What lmms-eval finds by the entry point ``lmms_eval.models``: that there is a model called paribus."""

from lmms_eval.models.registry_v2 import ModelManifest


def manifest() -> ModelManifest:
    """The model's name, and where its class is; the class is imported when it is asked for."""
    return ModelManifest(model_id="paribus", simple_class_path="paribus.lmms.model.Paribus")
