"""What is in a mix of conversations and what was lost of it, before anything is trained.

Published mixes have gaps: of OCR-VQA's pictures many are gone or have another suffix. What is lost is not
lost at random, so it is told by source.
"""

from collections.abc import Mapping

from pydantic import Field

from paribus.data.conversations import EXAMPLES, MixMeta, Part
from paribus.types import Config


class Preflight(Config):
    """A mix by source, and what was lost."""

    digest: str
    samples: int
    pictured: int
    pictures: int
    unshown: int
    thorough: bool
    parts: dict[str, Part] = Field(description="by source")
    losses: dict[str, dict[str, int]] = Field(description="source -> fault -> records left out")
    examples: dict[str, tuple[str, ...]] = Field(description="fault -> its first records, in words")

    @property
    def lost(self) -> int:
        """Records left out."""
        return sum(sum(faults.values()) for faults in self.losses.values())


def preflight(meta: MixMeta, examples: int = EXAMPLES) -> Preflight:
    """The report on a mix.

    Args:
        meta: what ``build_mix`` said of it.
        examples: how many records to name of each fault, at most ``EXAMPLES``.
    """
    known = meta.model_dump(exclude={"version", "examples"})
    named = {fault: shown[:examples] for fault, shown in meta.examples.items()}
    return Preflight.model_validate({**known, "examples": named})


def spell(report: Preflight) -> str:
    """The report as text."""
    how = "all decoded" if report.thorough else "headers looked at"
    lines = [
        f"{report.samples:,} records, {report.pictured:,} with a picture "
        f"({report.pictures:,} different files, {how}).",
        "",
        *_table(report),
    ]
    if report.unshown:
        lines += [
            "",
            f"{report.unshown:,} records have a picture that no turn names: text alone, as in LLaVA.",
        ]
    lines += ["", f"{report.lost:,} records were left out." if report.lost else "Nothing was left out."]
    for source, faults in report.losses.items():
        lines.append(f"  {source}: {_counted(faults)}")
    for fault, shown in report.examples.items():
        lines += ["", f"{fault}, the first {len(shown)}:", *(f"  {each}" for each in shown)]
    return "\n".join(lines) + "\n"


def _counted(faults: Mapping[str, int]) -> str:
    return ", ".join(f"{fault} {count:,}" for fault, count in faults.items())


def _table(report: Preflight) -> list[str]:
    head = ("source", "records", "pictured", "turns", "characters", "lost")
    rows: list[tuple[str, ...]] = [head]
    for source in sorted(report.parts.keys() | report.losses.keys()):
        part = report.parts.get(source, Part())
        numbers = (part.records, part.pictured, part.turns, part.characters)
        lost = sum(report.losses.get(source, {}).values())
        rows.append((source, *(f"{number:,}" for number in numbers), f"{lost:,}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
