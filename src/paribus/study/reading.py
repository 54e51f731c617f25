"""A study file's content: read, put together with the file that it begins with, and changed by ``--set``."""

from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError

from paribus.errors import UserError
from paribus.study.control import one_sentence
from paribus.types import Config


def read_content(path: Path, changes: tuple[str, ...] = ()) -> dict[str, Any]:
    """What a study file says, with ``path=value`` changes applied; nothing of it is validated yet.

    Raises:
        UserError: a file cannot be read, or a change cannot be applied.
    """
    content = _content(path)
    for change in changes:
        _change(content, change)
    return content


class Extends(Config):
    """Another study file that one begins with: what it does not say itself is said there."""

    file: str = Field(description="beside this file")
    arms: tuple[str, ...] | None = Field(None, description="which of its arms; None: all")


def _content(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """What a study file says, and what the file says that it begins with.

    Raises:
        UserError: a file cannot be read, or begins with itself.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Once)
    except FileNotFoundError as error:
        raise UserError(
            f"There is no study file {path}: give the path of a YAML file, e.g. studies/quickstart.yaml."
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"Cannot read the study file {path}: give the path of a YAML file.") from error
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is not valid YAML: {reason}.") from error
    if not isinstance(content, dict):
        raise UserError(
            f"{path} holds no study: it must be a mapping with the keys hypothesis, control, arms."
        )
    if "extends" not in content:
        return content
    if path.resolve() in above:
        raise UserError(f"{path}: extends: it begins with itself.")
    try:
        extends = Extends.model_validate(content.pop("extends"))
    except ValidationError as error:
        raise UserError(one_sentence(error, f"{path}: extends")) from error
    base = _content(path.parent / extends.file, (*above, path.resolve()))
    return _over(_chosen(base, extends, path), content)


def _chosen(base: dict[str, Any], extends: Extends, path: Path) -> dict[str, Any]:
    """A base with some of its arms."""
    arms = base.get("arms")
    if extends.arms is None or not isinstance(arms, dict):
        return base
    absent = [name for name in extends.arms if name not in arms]
    if absent:
        raise UserError(
            f"{path}: extends.arms: {extends.file} has no arm {absent[0]!r}; it has {', '.join(arms)}."
        )
    return base | {"arms": {name: arms[name] for name in extends.arms}}


def _over(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """A base with what a file says itself: mappings key by key, but some as a whole.

    Those are what has a kind or is a preset, and the changes that a model declares.
    """
    out = dict(base)
    for key, value in own.items():
        below = base.get(key)
        whole = key == "change" or not isinstance(value, dict) or bool({"kind", "preset"} & value.keys())
        merged = isinstance(below, dict) and not whole
        out[key] = _over(below, value) if merged else value  # type: ignore[arg-type]
    return out


class _Once(yaml.SafeLoader):
    """YAML in which a key that stands there twice is an error; PyYAML silently takes the last."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """A mapping as it is written, before anything is merged into it."""
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key.value, str) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    where, what = key.start_mark, f"{key.value} stands there twice"
                    raise yaml.constructor.ConstructorError(None, None, what, where)
                seen.add(key.value)
        return node


def _change(content: dict[str, Any], change: str) -> None:
    """Apply one ``path=value`` to the file's content; the value is read as YAML."""
    path, separator, value = change.partition("=")
    if not separator or not path:
        raise UserError(f"--set {change}: write path=value, e.g. --set control.budget.samples=1000.")
    *parents, last = path.split(".")
    arms = content.get("arms")
    if path.count(".") > 1 and parents[0] == "arms" and isinstance(arms, dict) and parents[1] not in arms:
        raise UserError(
            f"--set {change}: there is no arm {parents[1]!r}; there are {', '.join(map(str, arms))}."
        )
    place: Any = content
    for parent in parents:
        place = place.setdefault(parent, {}) if isinstance(place, dict) else None
    if not isinstance(place, dict):
        raise UserError(f"--set {change}: {'.'.join(parents)} is not a mapping in the study file.")
    try:
        place[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UserError(f"--set {change}: the value is not valid YAML.") from error
