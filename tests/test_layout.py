"""The plan of the house: four packages of this repository, one base that needs none of the others."""

from __future__ import annotations

import ast
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import steering

ROOT = Path(__file__).parents[1]
PACKAGES = ["service", "steering", "probes", "eval"]
BASE = {"steering", "torch", "transformers", "tokenizers", "safetensors", "filelock", "pydantic"}
COMPILED = {"numba", "numpy"}
JUDGES = {
    "steering/scorers/detoxified.py": "detoxify",
    "steering/scorers/profanity.py": "profanity_check",
    "steering/scorers/remote.py": "httpx",
    "steering/scorers/vader.py": "vaderSentiment",
}
PAGES = {"jinja2", "markupsafe", "matplotlib"}
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def short(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("name", PACKAGES)
def test_each_package_is_loaded_from_this_repository(name):
    loaded = importlib.import_module(name)
    assert Path(loaded.__file__) == ROOT / name / "__init__.py"
    assert (ROOT / name / "py.typed").is_file()


@pytest.mark.parametrize("name", PACKAGES)
def test_all_is_sorted_and_every_name_in_it_exists(name):
    package = importlib.import_module(name)
    exported = list(getattr(package, "__all__", []))
    assert exported == sorted(exported)
    assert all(hasattr(package, attribute) for attribute in exported)


@pytest.mark.parametrize("command", [["--help"], ["keys", "list"], ["version"], ["serve", "--print-config"]])
def test_commands_that_need_no_model_do_not_wait_for_torch(command, tmp_path):
    code = "import sys; from service.cli import main; sys.exit(main(sys.argv[1:]) or 'torch' in sys.modules)"
    words, environment = [sys.executable, "-c", code, *command], os.environ | {"TILLER_STATE": str(tmp_path)}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr


def test_the_base_exports_what_its_folder_promises():
    assert {"capture", "steer", "generate", "Engine", "Probe", "Plan"} <= set(steering.__all__)


def imported(path: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return {name.partition(".")[0] for name in names | {str(n.module) for n in nodes if isinstance(n, ast.ImportFrom)}}


@pytest.mark.parametrize("path", [path for path in MODULES if short(path).startswith("steering/")], ids=short)
def test_the_base_needs_torch_transformers_and_their_own_dependencies_only(path):
    commands = {"typer", "rich"} if short(path) == "steering/commandline.py" else set()
    compiled = COMPILED if short(path).startswith("steering/kernels/") else set()
    judge = {JUDGES[short(path)]} if short(path) in JUDGES else set()
    host = {"numpy"} if short(path) == "steering/choosing.py" else set()
    page = PAGES if short(path).startswith("steering/page/") else set()
    assert imported(path) - sys.stdlib_module_names <= BASE | commands | compiled | judge | host | page
    assert commands or "steering.commandline" not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", [p for p in MODULES if short(p).startswith(("steering/", "service/"))], ids=short)
def test_pages_of_findings_are_for_cards_and_reports_alone(path):
    assert short(path).startswith("steering/page/") or "steering.page" not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", MODULES, ids=short)
def test_a_module_is_documented_absolute_and_fits_in_one_sitting(path):
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    assert len(lines) <= 300
    assert text.strip(), "an empty file says nothing"
    tree = ast.parse(text)
    if short(path) != "steering/version.py":
        assert ast.get_docstring(tree), "a module opens with what it is"
    assert not any(isinstance(node, ast.ImportFrom) and node.level for node in ast.walk(tree)), "import absolutely"


@pytest.mark.parametrize("path", MODULES, ids=short)
def test_public_functions_and_classes_have_docstrings(path):
    body = ast.parse(path.read_text(encoding="utf-8")).body
    bare = [
        node.name
        for node in body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    ]
    assert bare == []


@pytest.mark.parametrize("path", MODULES, ids=short)
def test_siblings_do_not_import_each_other(path):
    own = short(path).split("/")[0]
    allowed = {own, "steering"} | ({"probes", "eval"} if short(path) == "service/cli.py" else set())
    assert imported(path) & set(PACKAGES) <= allowed


def test_tests_are_no_packages():
    assert list((ROOT / "tests").rglob("__init__.py")) == []
