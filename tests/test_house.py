"""The house rules, read from the source: direction of imports, sizes, names, what may be written where."""

import ast
import importlib.metadata
import math
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from study import ROOT

SOURCE = ROOT / "src" / "paribus"

SHARED = {"comparison", "errors", "files", "peers", "progress", "results", "rng", "stats", "types"}
"""Modules that are free for all above them and import only each other."""

ALLOWED: dict[str, set[str]] = {
    **{name: set() for name in SHARED},
    "": set(),
    "data": set(),
    "datasets": {"data"},
    "encoders": set(),
    "objectives": {"encoders"},
    "train": {"objectives.base"},
    "probes": set(),
    "analysis": set(),
    "annotate": {"analysis"},
    "vlm": {"encoders", "objectives.base", "vqa.benchmark"},  # words its texts as the benchmark asks
    "vqa": {"data"},  # its questions are made from the corpus
    "stimuli": {"data"},  # its pictures are made from the corpus
    "report": {"vqa", "probes", "analysis", "vlm"},
    "study": {
        *("data", "datasets", "encoders", "objectives", "train"),
        *("probes", "analysis", "stimuli", "vlm", "vqa"),
    },
    "lmms": {"cli_vlm", "data", "encoders", "study", "vlm", "vqa"},
    "cli": {
        "cli_annotate",
        "cli_compare",
        "cli_download",
        "cli_embed",
        "cli_encoder",
        "cli_options",
        "cli_lmms",
        "cli_probe",
        "cli_vlm",
        "data",
        "study",
        "report",
    },
    "cli_annotate": {"annotate", "analysis"},
    "cli_compare": {"annotate", "cli_named", "cli_options", "encoders", "study", "report"},
    "cli_download": {"data"},
    "cli_embed": {"cli_named", "cli_options", "study"},
    "cli_named": {"study"},
    "cli_probe": {"cli_named", "cli_options", "data", "datasets", "encoders", "report", "study"},
    "cli_options": set(),
    "cli_encoder": {"encoders", "report"},
    "cli_lmms": {"cli_vlm", "lmms.task", "study"},
    "cli_vlm": {"data", "encoders", "study", "vlm"},
    "__main__": {"cli"},
}
"""What a part may import besides itself and the shared modules: whole packages, or one module by its name."""


@dataclass(frozen=True)
class Module:
    """A source file: its name under ``paribus``, its text and its tree."""

    name: str
    path: Path
    tree: ast.Module

    @property
    def part(self) -> str:
        return self.name.split(".")[0]


def _modules() -> list[Module]:
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        name = ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix("__init__").strip(".")
        found.append(Module(name, path, ast.parse(path.read_text(encoding="utf-8"), str(path))))
    return found


MODULES = _modules()
NAMES = {module.name for module in MODULES}
CONCRETE = {name for name in NAMES if re.fullmatch(r"objectives\.(?!base$)\w+", name)}
each_module = pytest.mark.parametrize("module", MODULES, ids=lambda module: module.name or "paribus")


def imported(tree: ast.AST) -> Iterator[str]:
    """Full names of all that a file imports, also inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported_modules(tree: ast.AST) -> set[str]:
    """Names under ``paribus`` of the modules that a file imports: of `from paribus.rng import mix`, rng."""
    inner = [name.partition("paribus.")[2] for name in imported(tree) if name.split(".")[0] == "paribus"]
    return {name if name in NAMES else name.rpartition(".")[0] for name in inner}


def _covers(allowed: str, target: str) -> bool:
    return target == allowed or target.startswith(f"{allowed}.")


def breach(importer: str, target: str) -> str | None:
    """Why ``importer`` must not import ``target`` (both under ``paribus``); None if it may."""
    part = importer.split(".")[0]
    if target in CONCRETE and part != "objectives":
        return f"{importer} imports the objective {target}: only the registry knows it"
    if target in SHARED or target == "" or target.split(".")[0] == part:
        return None
    if any(_covers(allowed, target) for allowed in ALLOWED[part]):
        return None
    return f"{importer} must not import {target}"


def test_every_part_has_its_place():
    assert {module.part for module in MODULES} == set(ALLOWED)


@each_module
def test_imports_go_one_way(module):
    faults = [breach(module.name, target) for target in sorted(imported_modules(module.tree))]
    assert not [fault for fault in faults if fault]


@pytest.mark.parametrize(
    ("importer", "statement"),
    [
        ("train.loop", "from paribus.objectives.clip import Clip"),
        ("train.loop", "import paribus.objectives"),
        ("study.stages", "from paribus.objectives import dino"),
        ("objectives.clip", "from paribus.train.loop import fit"),
        ("objectives.clip", "from paribus.data import views"),
        ("vlm.model", "from paribus.study.study import Study"),
        ("report.page", "def f():\n from paribus.study import study"),
        ("probes.linear", "from paribus.train.optim import trainable"),
        ("analysis.factors", "from paribus.train import optim"),
        ("types", "from paribus.data.views import make_views"),
        ("stats", "import paribus.encoders.vision"),
        ("data.views", "from paribus.encoders.vision import EncoderConfig"),
        ("encoders.text", "from paribus.objectives.base import Objective"),
        ("study.run", "from paribus.report.page import write_report"),
        ("study.run", "from paribus import cli"),
    ],
)
def test_the_rule_sees_a_breach(importer, statement):
    assert any(breach(importer, target) for target in imported_modules(ast.parse(statement)))


def test_one_file_knows_of_several_processes():
    users = {m.name for m in MODULES if any("torch.distributed" in name for name in imported(m.tree))}
    assert users == {"train.distributed"}


def test_nothing_but_the_command_line_parses_arguments():
    parsers = {"argparse", "click", "typer", "optparse", "getopt", "fire", "tyro"}
    users = {m.name for m in MODULES if parsers & {name.split(".")[0] for name in imported(m.tree)}}
    assert users == {
        *("cli", "cli_annotate", "cli_compare", "cli_download"),
        *("cli_embed", "cli_encoder"),
        *("cli_lmms", "cli_named", "cli_options", "cli_probe", "cli_vlm"),
    }


def test_every_package_that_is_imported_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {name: lines for name, lines in project["optional-dependencies"].items() if name != "dev"}
    requires = project["dependencies"] + [line for lines in extras.values() for line in lines]
    declared = {_canonical(re.split(r"[^\w.-]", line)[0]) for line in requires}
    provided = importlib.metadata.packages_distributions()
    tops = {name.split(".")[0] for module in MODULES for name in imported(module.tree)}
    missing = {
        top
        for top in tops - set(sys.stdlib_module_names) - {"paribus"}
        if declared.isdisjoint(map(_canonical, provided.get(top, [top])))
    }
    assert not missing


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


# How it is written.


@each_module
def test_every_module_says_what_it_is_for(module):
    assert (ast.get_docstring(module.tree) or "").strip()


def _functions(tree: ast.AST) -> list[tuple[str, int]]:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [(n.name, (n.end_lineno or 0) - n.lineno + 1) for n in ast.walk(tree) if isinstance(n, kinds)]


def test_functions_are_small():
    sizes = [(lines, f"{m.name}.{name}") for m in MODULES for name, lines in _functions(m.tree)]
    assert len(sizes) > 400
    assert max(sizes)[0] <= 100, max(sizes)
    assert sorted(sizes)[math.ceil(0.95 * len(sizes)) - 1][0] <= 40


def _arm_names() -> set[str]:
    """Arms of the shipped studies, and kinds of objective: what no code may ask for by name."""
    from paribus.objectives import OBJECTIVES

    studies = [yaml.safe_load(path.read_text("utf-8")) for path in (ROOT / "studies").glob("*.yaml")]
    return {name for study in studies for name in study.get("arms", {})} | set(OBJECTIVES)


def questions_about(names: set[str], tree: ast.AST) -> list[int]:
    """Lines that compare something with one of the names, look one up in words, or match on one."""
    lines = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare | ast.MatchValue):
            asked: list[ast.AST] = [node]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            asked = node.args if node.func.attr in ("startswith", "endswith", "count", "find") else []
        else:
            continue
        words = {c.value for part in asked for c in ast.walk(part) if isinstance(c, ast.Constant)}
        if words & names:
            lines.append(node.lineno)
    return lines


@each_module
def test_no_code_asks_which_arm_it_serves(module):
    assert not questions_about(_arm_names(), module.tree)


@pytest.mark.parametrize(
    "line",
    [
        "if kind == 'clip': pass",
        "x = 'dino' != name",
        "if 'clip' in name: pass",
        "y = kind in ('dino', 'other')",
        "if name.startswith('clip'): pass",
        "match kind:\n case 'dino': pass",
        "z = {'clip'} <= set(arms)",
    ],
)
def test_the_rule_sees_a_question(line):
    assert questions_about({"clip", "dino"}, ast.parse(line))
    assert not questions_about(
        {"clip", "dino"}, ast.parse("OBJECTIVES = {'clip': Clip}\nkind: L['clip'] = 'clip'")
    )


# What may be written where.


def _texts() -> list[tuple[str, str]]:
    """Every text file that is, or is about to be, in the repository."""
    line = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    listed = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    found = []
    for name in filter(None, listed.split("\0")):
        path = ROOT / name
        if not path.is_file() or b"\0" in (content := path.read_bytes()):
            continue
        try:
            found.append((name, content.decode("utf-8")))
        except UnicodeDecodeError:
            continue
    return found


HOSTS = (
    r"registry\.(?!invalid)[a-z0-9-]+\.[a-z]+|pypi\.(?:org|python)|pythonhosted\.org|anaconda\.(?:org|com)/"
)
PLACES = r"(?<![\w.<*/-])/(?:work|root|opt|Users|home|mnt|data|scratch|tmp/w)/(?=\w)"
"""Homes and mounts of some machine. Hosts and places are spelt so that they do not match themselves."""


def _configured_hosts() -> set[str]:
    """Registries that this machine is told to use, which are nobody else's business."""
    told = [
        value for name, value in os.environ.items() if re.search(r"index_url|registry", name, re.IGNORECASE)
    ]
    for path in (Path.home() / ".npmrc", Path("/etc/pip.conf"), Path.home() / ".config/pip/pip.conf"):
        told += [path.read_text()] if path.is_file() else []
    return {host for text in told for host in re.findall(r"//(?:[^/\s@]*@)?([\w.-]+\.[\w-]+)", text)}


def strangers(text: str) -> list[str]:
    """Registry hosts and machine paths in a text."""
    return re.findall(HOSTS, text) + re.findall(PLACES, text)


def test_no_file_names_a_registry_or_this_machine():
    texts = _texts()
    assert len(texts) > 100
    found = {name: strangers(text) for name, text in texts}
    assert not {name: hits for name, hits in found.items() if hits}
    hosts = _configured_hosts()
    assert not [(name, host) for name, text in texts for host in hosts if host in text]


@pytest.mark.parametrize(
    "words", [("registry.", "npmjs.org"), ("https://", "pypi", ".org"), ("'/ro", "ot/x'")]
)
def test_the_rule_sees_a_stranger(words):
    assert strangers("".join(words))
    assert not strangers("src/data/x, ../home/x, npm's registry, <cache>/root")


# What an import costs.


def _loaded_by(code: str) -> set[str]:
    line = f"import sys\n{code}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


HELP = """
sys.argv = ["paribus", "--help"]
from paribus.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code
"""


@pytest.mark.parametrize(
    "code", ["import paribus", "import paribus.cli", HELP], ids=["import", "cli", "help"]
)
def test_the_command_line_does_not_wait_for_torch(code):
    loaded = _loaded_by(code)
    assert "paribus" in loaded
    assert loaded.isdisjoint({"torch", "transformers", "numpy", "pydantic", "exca"})


def test_the_suite_checks_types_and_shapes(request):
    """Guard of all other tests: what is imported too early would escape the check."""
    if not request.config.getoption("--jaxtyping-packages"):
        pytest.skip("the check is switched off on this command line")
    from jaxtyping import TypeCheckError

    from paribus.rng import key_id

    with pytest.raises(TypeCheckError):
        key_id(3)  # type: ignore[arg-type]
