"""What it costs to move many services to this version: services of four releases, with edits of their owners."""

import os
import random
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.containers import ROOT, step
from tests.support.commands import commit, tree
from tests.support.template import NEWEST, copy
from tests.update.script import template_update
from tests.update.versions import update, versions

SERVICES = int(os.environ.get("SERVICES", "100"))
EDITS = 5
BOTH = 5  # each fifth service is updated by Copier alone, too


def edit(service: Path, number: int) -> set[str]:
    """Insert lines at random places of random files; return them."""
    at_random = random.Random(number)
    files = sorted(tree(service).keys() - {".copier-answers.yml"})
    mine = {f"# mine {number}-{edit}" for edit in range(EDITS)}
    for line in sorted(mine):
        path = service / at_random.choice(files)
        lines = path.read_text().split("\n")
        lines.insert(at_random.randrange(len(lines)), line)
        path.write_text("\n".join(lines))
    commit(service)
    return mine


def template_of(folder: Path, *, last: int) -> tuple[Path, list[str]]:
    """Clone the template, and return it with its last releases as tags, and the working tree's commit as the newest."""
    template = folder / "template"
    subprocess.run(["git", "clone", "--quiet", "--no-local", ROOT, template], check=True)
    releases = dict(list(versions(template).items())[-last:])
    for version, revision in {NEWEST: "HEAD", **releases}.items():
        subprocess.run(["git", "tag", "--force", version, revision], cwd=template, check=True, capture_output=True)
    return template, list(releases)


def measure() -> dict[str, Any]:
    """Update each service; return how many met what, and seconds, without Copier's start, of some by both ways."""
    with tempfile.TemporaryDirectory() as name:
        service = Path(name, "service")
        template, releases = template_of(Path(name), last=4)
        for version in releases:
            copy(template, Path(name, version), {}, version)
        seconds: dict[str, list[float]] = {"copier update": [], "make template-update": []}
        conflicts = refused = lost = 0
        for number in range(SERVICES):
            step(f"updates: service {number + 1} of {SERVICES}")
            shutil.copytree(Path(name, releases[number % len(releases)]), service)
            mine = edit(service, number)
            same = shutil.copytree(service, Path(name, "same"))
            begun = time.monotonic()
            _, said = template_update(service)
            ended = time.monotonic()
            stopped = "Nothing is changed." in said
            if number % BOTH == 0 and not stopped:
                update(same)
                seconds["copier update"].append(time.monotonic() - ended)
                seconds["make template-update"].append(ended - begun)
            conflicts += "Conflict: " in said
            refused += stopped
            lost += len(mine - set(re.findall("# mine [0-9]+-[0-9]+", "\n".join(tree(service).values()))))
            shutil.rmtree(service)
            shutil.rmtree(same)
    return {
        "services": SERVICES,
        "lines_of_owners": SERVICES * EDITS,
        "with_conflicts": conflicts,
        "refused": refused,
        "lines_lost": lost,
        "seconds": seconds,
    }
