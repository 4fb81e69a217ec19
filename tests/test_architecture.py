"""The arrows of the architecture: imports point down only."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted([*ROOT.glob("moco_eval/**/*.py"), *ROOT.glob("pretrain/*.py")])

# Each floor may import what stands below it, and its own. Leaves import nothing but errors, files.
FLOORS = [
    {"cli", "demo"},
    {"protocol_command"},
    {"suite"},
    {"introduction"},
    {"cell"},
    {"linear", "knn", "lowshot", "svm", "detect", "segment", "convert", "finetune"},
    {"semantic"},
    {"engines"},
    {"probes"},
    {"features", "extraction", "feature_cache", "neighbours"},
    {"training"},
    {"encoders"},
    {"scoring"},
    {"data"},
    {"report"},
    {"tables", "pictures", "results_command", "published_command"},
    {"canvas", "store", "published", "published_addresses"},
    {"records", "record_file", "cost", "recipes", "options", "schedules", "optim", "environment"}
    | {"logistic", "progress", "strict_toml", "distributed", "resources", "accuracy", "chance"},
    {"files"},
    {"errors"},
]
WITHOUT_TORCH = (
    *("tables", "report", "pictures", "canvas", "records", "store", "published"),
    *("errors", "files", "recipes", "options", "cli"),
)


def floor_of(module: str) -> int:
    name = module.split(".")[1] if "." in module else ""
    return next((i for i, names in enumerate(FLOORS) if name in names), len(FLOORS))


def imports_of(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_a_module_imports_only_what_stands_below_it(path):
    module = module_of(path)
    for imported in imports_of(path):
        if module.startswith("moco_eval"):
            assert not imported.startswith("pretrain"), f"{module} imports {imported}"
        if module.startswith("moco_eval.") and imported.startswith("moco_eval."):
            assert floor_of(module) <= floor_of(imported), f"{module} imports {imported}"


def test_every_module_stands_on_a_floor():
    names = {path.stem for path in ROOT.glob("moco_eval/*.py")} - {"__init__"}
    names |= {path.parent.name for path in ROOT.glob("moco_eval/*/__init__.py")}
    assert names == set().union(*FLOORS)


def test_pretraining_uses_no_protocol_but_knn():
    for path in ROOT.glob("pretrain/*.py"):
        for imported in imports_of(path):
            name = imported.split(".")[1] if imported.startswith("moco_eval.") else ""
            assert name not in {"linear", "lowshot", "detect", "segment", "suite"}, path


def test_only_engines_import_detectron2():
    importers = [
        module_of(path)
        for path in SOURCES
        if any(name.split(".")[0] == "detectron2" for name in imports_of(path))
    ]
    assert importers
    assert all(name.startswith("moco_eval.engines.detectron.") for name in importers), importers


def test_no_file_is_longer_than_500_lines():
    for path in [*SOURCES, *ROOT.glob("tests/**/*.py"), *ROOT.glob("tools/*.py")]:
        assert len(path.read_text().splitlines()) <= 500, path


def test_tables_and_records_start_without_torch():
    modules = ", ".join(f"moco_eval.{name}" for name in WITHOUT_TORCH)
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
