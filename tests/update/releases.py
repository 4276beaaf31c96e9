"""Versions of the template that are published after the one under test."""

import re
from pathlib import Path

from tests.support.commands import commit, edit, run

NEXT, AFTER_NEXT = "v9999.2.0", "v9999.3.0"
CHANGELOG = "# Changelog\n\n## 9999.{}.0\n\nNews {}.\n\n### Before updating\n\nNothing.\n\n## 9999.0.0\n\nOld.\n"


def publish(template: Path, number: int) -> None:
    """Publish a version that changes a line of .gitignore, and whatever else is changed."""
    gitignore = template / "template/.gitignore"
    gitignore.write_text(re.sub(r"^\.coverage.*$", f".coverage{number}", gitignore.read_text(), flags=re.MULTILINE))
    (template / "CHANGELOG.md").write_text(CHANGELOG.format(number, number))
    commit(template)
    run("git", "tag", f"v9999.{number}.0", cwd=template)


def tighten(template: Path) -> None:
    """Publish a version that refuses the account of the services."""
    edit(template / "copier.yml", "rules.account_id(aws_account_id)", "'a newer rule' if aws_account_id[0] == '1'")
    edit(template / "copier.yml", 'default: "123456789012"', 'default: "234567890123"')
    publish(template, 3)
