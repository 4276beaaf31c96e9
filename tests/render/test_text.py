"""Rendered files read as if a person had written them, whatever the answers."""

import re
import tomllib
from pathlib import Path

import yaml

from tests.project import run, tree

YAML_RULES = (
    "{extends: default, rules: {line-length: {max: 140}, document-start: disable, truthy: {check-keys: false}}}"
)
# A template of another program is none of ours: ${{ }} of GitHub, {{.Field}} and {{json .}} of Docker.
LEFTOVERS = re.compile(r"\{%|%\}|\{#|#\}|(?<!\$)\{\{(?!\.|json )|\b_copier_conf\b", re.MULTILINE)
PYTHONISMS = re.compile(r"\b(True|False|None)\b")
SCRIPT = re.compile(r"^COPY <<END \S+[.]py\n.*?^END$", re.MULTILINE | re.DOTALL)
DESCRIBED = {"README.md", "pyproject.toml", ".copier-answers.yml"}


def text_files(rendered: Path) -> dict[str, str]:
    """Return the rendered files without those that hold a description, which may hold anything."""
    return {path: text for path, text in tree(rendered).items() if path not in DESCRIBED}


def test_nothing_is_left_unrendered(rendered: Path) -> None:
    for path, text in text_files(rendered).items():
        if path.endswith("main.py"):
            text = re.sub("description=.*", "", text)
        assert not (found := LEFTOVERS.search(text)), f"{path}: {found}"
        if not path.endswith(".py"):
            assert not (found := PYTHONISMS.search(SCRIPT.sub("", text))), f"{path}: {found}"


def test_no_blank_lines_are_left_over(rendered: Path) -> None:
    for path, text in tree(rendered).items():
        blank = "\n\n\n\n" if path.endswith(".py") else "\n\n\n"
        assert blank not in text, path
        assert not re.search(r"[ \t]$", text, re.MULTILINE), path
        assert "\r" not in text, path
        assert not text or (text.endswith("\n") and not text.endswith("\n\n") and text[0] != "\n"), path


def test_no_file_has_an_unrendered_name(rendered: Path) -> None:
    for path in tree(rendered):
        assert re.fullmatch(r"[\w.\-/]+", path), path
        assert not path.endswith(".jinja"), path


def test_what_says_how_it_is_run_can_be_run_and_nothing_else(rendered: Path) -> None:
    for path, text in tree(rendered).items():
        assert bool((rendered / path).stat().st_mode & 0o111) == text.startswith("#!"), path


def test_python_is_formatted_and_clean(rendered: Path) -> None:
    run("ruff", "format", "--check", "--no-cache", cwd=rendered)
    run("ruff", "check", "--no-cache", cwd=rendered)


def test_yaml_and_toml_parse_and_are_clean(rendered: Path) -> None:
    tomllib.loads((rendered / "pyproject.toml").read_text())
    files = [path for path in tree(rendered) if path.endswith((".yml", ".yaml"))]
    run("yamllint", "--strict", "-d", YAML_RULES, *files, cwd=rendered)


def test_dockerfiles_are_clean(rendered: Path) -> None:
    run("hadolint", "--failure-threshold", "style", "Dockerfile", "Dockerfile.dev", cwd=rendered)


def test_compose_fits_its_specification(rendered: Path) -> None:
    run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", "compose.yaml", cwd=rendered)
    assert "version" not in yaml.safe_load((rendered / "compose.yaml").read_text())


def test_shell_is_clean(rendered: Path) -> None:
    scripts = [path for path, text in tree(rendered).items() if re.match(r"#!.*sh\b", text)]
    recipes = re.findall(r"^\t@?((?:.*\\\n)*.*)$", (rendered / "Makefile").read_text(), re.MULTILINE)
    script = "#!/usr/bin/env bash\nset -euo pipefail\n" + "\n".join(recipes)
    script = re.sub(r'"?\$\((\w+)\)"?', r'"${\1:?}"', script).replace("$$", "$")
    (rendered / ".recipes.sh").write_text(script + "\n")
    try:
        run("shellcheck", "--exclude=SC2086,SC2016", ".recipes.sh", *scripts, cwd=rendered)
    finally:
        (rendered / ".recipes.sh").unlink()
