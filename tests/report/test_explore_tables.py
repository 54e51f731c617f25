"""The tables beside the page of a comparison: CSV at full precision, LaTeX that compiles."""

import csv
import re
from pathlib import Path

import pytest

from paribus.comparison import Comparison
from paribus.report.explore import write_comparison
from paribus.report.explore_tables import blocks, latex, sections, tex

from .test_explore import _hostile, build


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pictures")


@pytest.fixture(scope="module")
def found(pictures: Path) -> Comparison:
    return build(pictures)


def test_csvs_have_all_at_full_precision(found: Comparison, pictures: Path, tmp_path: Path) -> None:
    write_comparison(found, pictures, tmp_path)

    def read(name: str) -> list[dict[str, str]]:
        with (tmp_path / "tables" / f"{name}.csv").open(encoding="utf-8", newline="") as handle:
            return list(csv.DictReader(handle))

    measures = read("measures")
    assert [float(row["value"]) for row in measures] == [one.value for one in found.measures]
    assert {row["arm"] for row in measures} == {"clip", "dino", "both"}
    assert {(row["arm"], row["other"]) for row in read("differences")} == {("clip", "dino")}
    pairs = read("pairs")
    assert [float(row["cosine:clip"]) for row in pairs] == [pair.similarity["a"] for pair in found.pairs]
    assert float(pairs[0]["factor:colour"]) == found.pairs[0].factors["colour"]
    layers = read("layers")
    assert len(layers) == 25 and layers[0]["CKA"] == "" and float(layers[6]["CKA"]) == 0.9


def test_latex_is_whole_and_escaped(found: Comparison) -> None:
    assert tex("a\\b & 5% $x_1$ #{~}^\n\n[x]*é\U0001f600\x00") == (
        r"a\textbackslash{}b \& 5\% \$x\_1\$ \#\{\textasciitilde{}\}\textasciicircum{} {[}x]{*}é"
        + "\U0001f600"
    )
    texts = latex(_hostile(found, "\\end{tabular} & 100% $_#{}~^ \n\n[1]"))
    assert set(texts) == {"factors", "similarity", "symbols", "layers"}
    for text in texts.values():
        assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == text.count(r"\toprule")
        for table in re.findall(r"\\midrule\n(.*?)  \\bottomrule", text, re.DOTALL):
            cells = {len(re.findall(r"(?<!\\)&", row)) for row in table.strip().split("\n")}
            assert len(cells) == 1
        assert not re.search("[^\\\\][%#_]|\u2212", re.sub(r"(?m)^%.*$", "", text))
    assert r"0.340 {\footnotesize {[}" in latex(found)["factors"]


def test_sections_that_are_new_come_last(found: Comparison) -> None:
    new = found.differences[0].model_copy(update={"section": "novel", "task": "t", "metric": "share"})
    more = found.model_copy(update={"differences": [*found.differences, new]})
    assert list(sections(more)) == ["factors", "similarity", "symbols", "novel"]
    (line,) = blocks(more, "novel")[0].lines
    assert line.a is None and line.difference == new
    assert {block.heading for block in blocks(found, "factors")} == {"standardised coefficient", "unique R2"}
