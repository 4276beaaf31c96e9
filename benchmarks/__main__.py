"""Measure, and write benchmarks/results.json, its pictures, and its tables in the documents: make bench.

`python -m benchmarks PART...` measures these parts anew and keeps the other figures.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import Any

import yaml

from benchmarks import failures, growth, images, process, rendering, report, updates
from benchmarks.containers import ROOT, render
from tests.support.containers import docker

PARTS = {
    "images": images.costs,
    "starts": images.starts,
    "requests": images.requests,
    "failures": failures.measure,
    "growth": growth.measure,
    "database": images.database,
    "process": process.measure,
    "rendering": rendering.measure,
    "updates": updates.measure,
}
PROCESS = {"fastapi", "gunicorn", "httptools", "pydantic", "starlette", "uvicorn", "uvloop"}


def main() -> None:
    """Measure all parts in one run, or those that the command line names."""
    chosen = sys.argv[1:] or list(PARTS)
    results: dict[str, Any] = {} if len(chosen) == len(PARTS) else report.load()
    results["machine"] = {
        "architecture": platform.machine(),
        "cpus": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
        "system": platform.system(),
    }
    results["versions"] = versions()
    for name in chosen:
        results[name] = PARTS[name]()
        report.RESULTS.write_text(json.dumps(rounded(results), indent=2) + "\n")  # a later part may fail
    report.plot(report.load())
    report.write(report.load())
    print(report.everything(report.load()))


def versions() -> dict[str, str]:
    """Return the versions of what is measured, and of the packages whose process it is."""
    pins = yaml.safe_load((ROOT / "extensions/versions.yml").read_text())
    answers = yaml.safe_load((ROOT / "copier.yml").read_text())
    with tempfile.TemporaryDirectory() as folder:
        here = ".".join(platform.python_version_tuple()[:2])  # locks the same versions, and needs no other Python
        render(Path(folder), python_version=here)
        subprocess.run(["uv", "lock", "--quiet"], cwd=folder, check=True)
        locked = tomllib.loads(Path(folder, "uv.lock").read_text())["package"]
    return {package["name"]: package["version"] for package in locked if package["name"] in PROCESS} | {
        "docker": docker("version", "--format={{.Server.Version}}"),
        "image_store": docker("info", "--format={{.Driver}}"),  # overlayfs is containerd's
        "python": answers["python_version"]["default"],
        "uv": pins["uv"],
    }


def rounded(value: Any) -> Any:
    """Return the same with four significant digits: more of them say nothing."""
    if isinstance(value, dict):
        return {name: rounded(part) for name, part in value.items()}
    if isinstance(value, list):
        return [rounded(part) for part in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


if __name__ == "__main__":
    main()
