"""Render what the documentation takes from the code: recipes, published numbers, sets, exit codes.

python tools/render_docs.py            write the marked blocks of docs/
python tools/render_docs.py --check    exit 1 if any of them would change

A block stands between ``<!-- written by tools/render_docs.py: NAME -->`` and ``<!-- end -->``;
NAME is a key of ``blocks()``.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import docstring_parser
from rendering import ROOT, write_or_check

from moco_eval import engines, errors, recipes
from moco_eval.cell import DENSE_PROTOCOLS, IMAGE_PROTOCOLS, protocol_module
from moco_eval.data import facts, scene_sets, semantic_sets
from moco_eval.engines import recipes as detectors
from moco_eval.engines.recipe import Recipe as DetectorRecipe
from moco_eval.segment import TASKS
from moco_eval.semantic import recipe as segmenters
from pretrain.recipes import RECIPES as PRETRAINING

DOCS = ROOT / "docs"
PROTOCOLS = (*IMAGE_PROTOCOLS, *DENSE_PROTOCOLS)
MARK = "<!-- written by tools/render_docs.py: {} -->\n"
END = "<!-- end -->\n"
_BLOCK = re.compile(re.escape(MARK).replace(r"\{\}", r"([\w -]+)") + r".*?" + re.escape(END), re.S)
# Whose literal holds the recipes that another module takes over.
WRITTEN_IN = {"detect": (detectors,), "segment": (detectors, segmenters)}


def blocks() -> dict[str, str]:
    """Every block by its name."""
    return {
        "protocols": protocols_block(),
        **{f"recipes of {name}": recipes_block(name) for name in PROTOCOLS},
        "recipes of moco-pretrain": pretraining_block(),
        "sets of images": sets_block(),
        "sets of scenes": scenes_block(),
        "exit codes": exit_codes_block(),
    }


def rendered() -> dict[Path, str]:
    """Every page with blocks, with the text that it should have.

    Raises:
        KeyError: If a page asks for a block that there is not.
    """
    known = blocks()
    pages = {}
    for path in sorted(DOCS.rglob("*.md")):
        text = path.read_text(encoding="utf-8")
        if "tools/render_docs.py:" in text:
            pages[path] = _BLOCK.sub(lambda found: block_text(found[1], known), text)
    return pages


def block_text(name: str, known: Mapping[str, str]) -> str:
    """A block between its marks."""
    return f"{MARK.format(name)}\n{known[name].strip()}\n\n{END}"


def protocols_block() -> str:
    """Every id that a record may bear, with its version and page."""
    rows = []
    for name in PROTOCOLS:
        module = protocol_module(name)
        for protocol, known in by_id(name).items():
            default = module.DEFAULT_RECIPE if module.DEFAULT_RECIPE in known else ""
            if name == "segment" and not default:
                default = TASKS["semantic"] if TASKS["semantic"] in known else ""
            rows.append(
                (
                    f"[{' '.join(ids_of(protocol, known, module.VERSION))}]({name}.md)",
                    f"`moco-eval {name}`",
                    f"`{default}`" if default else "",
                    str(len(known)),
                )
            )
    return table(("id and version", "command", "default recipe", "recipes"), rows)


def recipes_block(name: str) -> str:
    """The recipes of a protocol: what each should reach, whence it is, its own numbers."""
    module = protocol_module(name)
    sources = sources_of(name)
    parts = []
    for protocol, known in by_id(name).items():
        parts.append(f"### {' and '.join(ids_of(protocol, known, module.VERSION))}")
        usual = usual_numbers(known.values())
        for recipe, numbers in known.items():
            default = " (default)" if recipe == module.DEFAULT_RECIPE else ""
            parts.append(f"#### `{recipe}`{default}")
            told = {
                "Published": cell(module.PUBLISHED.get(recipe, "")),
                "Source": sources.get(recipe, ""),
                "Its own numbers": numbers_text(recipes.as_dict(numbers), but=usual),
            }
            parts += [f"{name}: {text}" for name, text in told.items() if text]
        parts.append(f"#### Numbers of `{protocol}`")
        parts.append("What they mean, and what they are where a recipe says nothing else:")
        meanings = meanings_of(type(next(iter(known.values()))))
        rows = [
            (f"`{key}`", cell(meaning), f"`{plain(usual[key])}`" if plain(usual[key]) else "none")
            for key, meaning in meanings.items()
        ]
        parts.append(table(("key", "meaning", "value"), rows))
    return "\n\n".join(parts)


def pretraining_block() -> str:
    """The recipes of moco-pretrain."""
    rows = [
        (
            f"`{name}`",
            f"{recipe.epochs} epochs of {recipe.batch_total} images, {recipe.optimizer}, "
            f"lr {recipe.scaling_rule.replace('x', '×')}",
            cell(recipe.source),
            cell(recipe.published),
        )
        for name, recipe in PRETRAINING.items()
    ]
    return table(("recipe", "what it does", "source", "what was published"), rows)


def sets_block() -> str:
    """The sets of the literature for classification."""
    rows = [
        (
            f"`{name}:DIR`",
            cell(known.title),
            f"{known.num_classes:,}",
            f"{known.num_train:,}" + (f" + {known.num_val:,}" if known.num_val else ""),
            f"{known.num_test:,}",
            known.metric,
            cell(f"`{known.holds}`" if "/" in known.holds else known.holds),
        )
        for name, known in facts.DATASETS.items()
    ]
    head = ("written", "set", "classes", "training + validation", "test", "metric", "DIR holds")
    return table(head, rows)


def scenes_block() -> str:
    """The sets of the literature for dense tasks."""
    rows = [
        (f"`{name}:DIR`", "detect, segment", f"{s.num_train:,}", f"{s.num_test:,}", cell(s.source))
        for name, s in scene_sets.SCENE_SETS.items()
    ]
    rows += [
        (f"`{name}:DIR`", "segment --task semantic", f"{s.num_train:,}", f"{s.num_test:,}", "")
        for name, s in semantic_sets.PUBLISHED.items()
    ]
    return table(("written", "for", "training", "test", "source"), rows)


def exit_codes_block() -> str:
    """The exit codes, from the classes of errors that bear them."""
    meaning: dict[int, list[str]] = defaultdict(list)
    meaning[0].append("Done.")
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, errors.UsageError):
            meaning[kind.exit_code].append(inspect.getdoc(kind) or "")
    meaning[130].append("Interrupted from the keyboard.")
    rows = [(str(code), cell(" ".join(meaning[code]))) for code in sorted(meaning)]
    return table(("code", "what happened"), rows)


def by_id(name: str) -> dict[str, dict[str, Any]]:
    """The recipes of a protocol's module, by the id that records bear (of Detectron2, if any)."""
    known: dict[str, dict[str, Any]] = defaultdict(dict)
    for recipe, numbers in protocol_module(name).RECIPES.items():
        known[recipes.protocol_id(name, numbers)][recipe] = numbers
    return known


def ids_of(protocol: str, known: Mapping[str, Any], version: int) -> list[str]:
    """The ids under which these recipes are recorded: one, or one an engine."""
    has_engines = isinstance(next(iter(known.values())), DetectorRecipe)
    suffixes = engines.SUFFIX.values() if has_engines else ("",)
    return [f"`{protocol}{suffix}@{version}`" for suffix in suffixes]


def sources_of(name: str) -> dict[str, str]:
    """The comment above each recipe in the code, which says whence it is."""
    found: dict[str, str] = {}
    for module in WRITTEN_IN.get(name, (protocol_module(name),)):
        found |= comments_of(module)
    return found


def comments_of(module: ModuleType) -> dict[str, str]:
    """The comments above the keys of a module's literal ``RECIPES``.

    A recipe that is made of a constant of the module, and has none, gets that constant's.
    """
    source = inspect.getsource(module)
    lines = source.splitlines()
    assigned: dict[str, ast.Assign | ast.AnnAssign] = {}
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.Assign | ast.AnnAssign):
            targets = (
                [statement.target] if isinstance(statement, ast.AnnAssign) else statement.targets
            )
            assigned |= {each.id: statement for each in targets if isinstance(each, ast.Name)}
    literal = assigned["RECIPES"].value
    assert isinstance(literal, ast.Dict), f"RECIPES of {module} is no literal"
    found = {}
    for key, value in zip(literal.keys, literal.values, strict=True):
        assert isinstance(key, ast.Constant), f"a key of {module}'s RECIPES is no literal"
        lines_above = [key.lineno]
        lines_above += [
            assigned[n.id].lineno
            for n in ast.walk(value)
            if isinstance(n, ast.Name) and n.id in assigned
        ]
        told = (comment_above(lines, line) for line in lines_above)
        found[str(key.value)] = next(filter(None, told), "")
    return found


def comment_above(lines: list[str], number: int) -> str:
    """The comment that ends above line ``number`` (from 1), as one line of Markdown."""
    told: list[str] = []
    for line in reversed(lines[: number - 1]):
        if not line.strip().startswith("#"):
            break
        told.insert(0, line.strip().lstrip("# "))
    return cell(" ".join(told))


def meanings_of(kind: type) -> dict[str, str]:
    """What each field of a recipe means: the docstrings of its class and of those it is made of."""
    told: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        parsed = docstring_parser.parse(vars(base).get("__doc__") or "")
        told |= {p.arg_name: " ".join((p.description or "").split()) for p in parsed.params}
    return {field.name: told[field.name] for field in dataclasses.fields(kind)}


def usual_numbers(known: Iterable[Any]) -> dict[str, Any]:
    """Of each number the value that most recipes have; of values that as many have, the first."""
    numbers = [recipes.as_dict(recipe) for recipe in known]
    return {key: Counter(each[key] for each in numbers).most_common(1)[0][0] for key in numbers[0]}


def numbers_text(numbers: Mapping[str, Any], *, but: Mapping[str, Any]) -> str:
    """``lr=30, epochs=100``: the numbers that are not as in ``but``."""
    told = [f"`{key}={plain(value)}`" for key, value in numbers.items() if value != but[key]]
    return cell(", ".join(told))


def plain(value: Any) -> str:
    """A number as a person writes it, so that ``--set`` takes it."""
    if isinstance(value, (tuple, list)):
        return f"[{','.join(plain(each) for each in value)}]"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A table of Markdown."""
    lines = [head, tuple(":--" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines)


def cell(text: str) -> str:
    """Text as a cell of a table holds it."""
    return " ".join(text.replace("|", r"\|").replace("``", "`").split())


def main() -> None:
    """Write the pages, or say which would change."""
    write_or_check(rendered())


if __name__ == "__main__":
    main()
