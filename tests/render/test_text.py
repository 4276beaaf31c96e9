"""Rendered files read as if a person had written them, whatever the answers."""

import re
import shutil
import tomllib
from pathlib import Path

import yaml

from tests.support.commands import commit, run, tree
from tests.support.template import YAML_RULES

# A template of another program is none of ours: ${{ }} of GitHub, {{.Field}} and {{json .}} of Docker.
LEFTOVERS = re.compile(r"\{%|%\}|\{#|#\}|(?<!\$)\{\{(?!\.|json )|\b_copier_conf\b", re.MULTILINE)
PYTHONISMS = re.compile(r"\b(True|False|None)\b")
DESCRIBED = {"README.md", "pyproject.toml", ".copier-answers.yml"}


def text_files(rendered: Path) -> dict[str, str]:
    """Return the rendered files without those that hold a description, which may hold anything."""
    return {path: text for path, text in tree(rendered).items() if path not in DESCRIBED}


def is_python(path: str, text: str) -> bool:
    return path.endswith((".py", ".mako")) or text.startswith("#!/usr/bin/env python3\n")


def test_no_template_syntax_is_left_in_a_rendered_file(rendered: Path) -> None:
    for path, text in text_files(rendered).items():
        if path.endswith("main.py"):
            text = re.sub("description=.*", "", text)
        assert not (found := LEFTOVERS.search(text)), f"{path}: {found}"
        if not is_python(path, text):
            assert not (found := PYTHONISMS.search(text)), f"{path}: {found}"


def test_rendered_files_have_no_stray_blank_lines(rendered: Path) -> None:
    for path, text in tree(rendered).items():
        blank = "\n\n\n\n" if is_python(path, text) else "\n\n\n"
        assert blank not in text, path
        assert not re.search(r"[ \t]$", text, re.MULTILINE), path
        assert "\r" not in text, path
        assert not text or (text.endswith("\n") and not text.endswith("\n\n") and text[0] != "\n"), path


def test_no_clone_has_the_line_ends_of_windows(template: Path, default: Path, tmp_path: Path) -> None:
    """On Windows, Git makes them unless .gitattributes says otherwise; `bash\\r` is no program."""
    service = shutil.copytree(default, tmp_path / "service")
    commit(service)
    for repository in (template, service):
        clone = tmp_path / f"clone of {repository.name}"
        run("git", "-c", "core.autocrlf=true", "clone", "--quiet", repository, clone)
        for path in (path for path in clone.rglob("*") if path.is_file() and ".git" not in path.parts):
            assert path.suffix == ".png" or b"\r" not in path.read_bytes(), path


def test_no_file_has_an_unrendered_name(rendered: Path) -> None:
    for path in tree(rendered):
        assert re.fullmatch(r"[\w.\-/]+", path), path
        assert not path.endswith(".jinja"), path


def test_only_files_with_a_shebang_are_executable(rendered: Path) -> None:
    for path, text in tree(rendered).items():
        assert bool((rendered / path).stat().st_mode & 0o111) == text.startswith("#!"), path


def test_rendered_python_passes_ruff(rendered: Path) -> None:
    run("ruff", "format", "--check", "--no-cache", cwd=rendered)
    run("ruff", "check", "--no-cache", cwd=rendered)


def test_rendered_yaml_passes_yamllint_and_rendered_toml_parses(rendered: Path) -> None:
    tomllib.loads((rendered / "pyproject.toml").read_text())
    files = [path for path in tree(rendered) if path.endswith((".yml", ".yaml"))]
    run("yamllint", "--strict", "-d", YAML_RULES, *files, cwd=rendered)


def test_rendered_dockerfiles_pass_hadolint(rendered: Path) -> None:
    files = ("Dockerfile", "Dockerfile.dev", "ops/contract/Dockerfile")
    run("hadolint", "--failure-threshold", "style", *files, cwd=rendered)


def test_the_compose_file_matches_the_compose_specification(rendered: Path) -> None:
    run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", "compose.yaml", cwd=rendered)
    assert "version" not in yaml.safe_load((rendered / "compose.yaml").read_text())


def test_rendered_shell_passes_shellcheck(rendered: Path) -> None:
    scripts = [path for path, text in tree(rendered).items() if re.match(r"#!.*sh\b", text)]
    recipes = re.findall(r"^\t@?((?:.*\\\n)*.*)$", (rendered / "Makefile").read_text(), re.MULTILINE)
    script = "#!/usr/bin/env bash\nset -euo pipefail\n" + "\n".join(recipes)
    script = re.sub(r'"?\$\((\w+)\)"?', r'"${\1:?}"', script).replace("$$", "$")
    (rendered / ".recipes.sh").write_text(script + "\n")
    try:
        run("shellcheck", "--exclude=SC2086,SC2016", ".recipes.sh", *scripts, cwd=rendered)
    finally:
        (rendered / ".recipes.sh").unlink()
