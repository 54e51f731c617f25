"""The benchmarks that are read from their publishers' files; a new one is a file and a line here."""

import functools
import operator
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from paribus.vqa.choice import ChoiceConfig
from paribus.vqa.mmvp import MMVPConfig
from paribus.vqa.naturalbench import NaturalBenchConfig
from paribus.vqa.pope import POPEConfig
from paribus.vqa.records import Reader
from paribus.vqa.vmcbench import VMCBenchConfig

_READERS: tuple[type[Reader], ...] = (
    VMCBenchConfig,
    MMVPConfig,
    NaturalBenchConfig,
    POPEConfig,
    ChoiceConfig,
)

BENCHMARKS: dict[str, type[Reader]] = {reader.model_fields["kind"].default: reader for reader in _READERS}
"""Kind -> its reader."""

if TYPE_CHECKING:
    AnyBenchmark = Reader
else:
    AnyBenchmark = Annotated[functools.reduce(operator.or_, _READERS), Field(discriminator="kind")]
