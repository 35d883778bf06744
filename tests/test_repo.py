"""The repository keeps its own rules: sizes, names, links, no forbidden calls, no path of a machine."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FORBIDDEN_NAMES = {"utils.py", "helpers.py", "common.py", "base.py", "manager.py", "types.py", "misc.py"}
FORBIDDEN_CLASSES = re.compile(r"(Trainer|Manager|Handler|Engine|Context)$")
MAX_MODULE, MAX_METHOD, MAX_FUNCTION, MAX_CLASS_METHODS, MAX_FILE_BYTES = 300, 200, 40, 8, 500_000


def tracked() -> list[Path]:
    """The files git tracks or would track."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


def product() -> list[Path]:
    """The Python files of the two packages."""
    return sorted([*(ROOT / "methods").rglob("*.py"), *(ROOT / "orchestrator").rglob("*.py")])


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def body_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function's body without its docstring."""
    body = node.body[1:] if ast.get_docstring(node) and len(node.body) > 1 else node.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1


@pytest.mark.parametrize("path", product(), ids=lambda path: str(path.relative_to(ROOT)))
def test_module_keeps_the_house_sizes(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    limit = MAX_METHOD if path.parent == ROOT / "methods" else MAX_MODULE
    assert len(text.splitlines()) <= limit, f"{path.name} has {len(text.splitlines())} lines; ceiling {limit}"
    assert path.name not in FORBIDDEN_NAMES
    for function in functions(tree):
        assert body_lines(function) <= MAX_FUNCTION, f"{path.name}:{function.lineno} {function.name} is too long"
        assert function.args.kwarg is None, f"{path.name}:{function.lineno} {function.name} takes **kwargs"
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            assert not FORBIDDEN_CLASSES.search(node.name), f"{path.name}:{node.lineno} class {node.name}"
            public = [item for item in node.body if isinstance(item, ast.FunctionDef) and not item.name.startswith("_")]
            properties = [item for item in public if any("property" in ast.dump(mark) for mark in item.decorator_list)]
            assert len(public) - len(properties) <= MAX_CLASS_METHODS, f"{path.name}:{node.lineno} {node.name}"


FORBIDDEN_CALLS = {
    "pickle": re.compile(r"^\s*(import|from)\s+(pickle|cloudpickle|dill)\b", re.MULTILINE),
    "torch.load without weights_only=True": re.compile(r"torch\.load\((?![^)]*weights_only=True)"),
    "torch.save": re.compile(r"torch\.save\("),
    "yaml.load": re.compile(r"yaml\.(load|full_load|unsafe_load)\("),
    "trust_remote_code": re.compile(r"trust_remote_code\s*=\s*True"),
    "unfinished work": re.compile(r"\b(TODO|FIXME|XXX)\b"),
}


@pytest.mark.parametrize("name", FORBIDDEN_CALLS)
def test_product_never_uses(name: str) -> None:
    found = [str(path.relative_to(ROOT)) for path in product() if FORBIDDEN_CALLS[name].search(path.read_text("utf-8"))]
    assert not found


def test_the_forbidden_calls_are_recognised() -> None:
    assert FORBIDDEN_CALLS["torch.load without weights_only=True"].search("torch.load(path)")
    assert not FORBIDDEN_CALLS["torch.load without weights_only=True"].search("torch.load(path, weights_only=True)")
    assert FORBIDDEN_CALLS["yaml.load"].search("yaml.load(text)")
    assert not FORBIDDEN_CALLS["yaml.load"].search("yaml.safe_load(text)")


def test_files_are_small_and_name_no_machine() -> None:
    home = str(ROOT.parent)
    for path in tracked():
        assert path.stat().st_size <= MAX_FILE_BYTES, f"{path} is larger than {MAX_FILE_BYTES} bytes"
        if path.suffix in {".py", ".md", ".toml", ".yaml", ".yml", ".txt", ".sh", ""}:
            assert home == "/" or f"{home}/" not in path.read_text(encoding="utf-8"), f"{path} names {home}"


def markdown_links() -> Iterator[tuple[Path, str]]:
    for path in tracked():
        if path.suffix == ".md":
            for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
                if not target.startswith(("http://", "https://", "mailto:")):
                    yield path, target


def test_relative_links_lead_somewhere() -> None:
    broken = [f"{path.name}: {target}" for path, target in markdown_links() if not (path.parent / target).exists()]
    assert not broken


def test_every_method_has_its_search_space_and_its_tests() -> None:
    import methods

    for name in methods.available():
        assert (ROOT / "search_spaces" / f"{name}.yaml").is_file(), name
        assert (ROOT / "tests" / "methods" / f"test_{name}.py").is_file(), name
