"""The tables and the pictures of benchmarks/results.json, for docs/benchmarks.md and the README."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.containers import ROOT

RESULTS = ROOT / "benchmarks/results.json"
PICTURES = {theme: ROOT / f"docs/benchmarks-{theme}.png" for theme in ("light", "dark")}
IMAGES = {"conventional": "conventional", "uv": "uv's example", "slim": "`slim`", "minimal": "`minimal`"}


@dataclass
class Measure:
    """A figure of an image: its label, its unit, and how it is measured."""

    label: str
    unit: str
    how: str


MEASURES = {
    "total_mb": Measure("Image, unpacked", "MB", "the files of all layers"),
    "compressed_mb": Measure("Image, compressed", "MB", "what a task pulls: the layers as the registry has them"),
    "over_base_compressed_mb": Measure("Compressed, without the base image", "MB", "the same, less the base's layers"),
    "pushed_by_a_line_kb": Measure(
        "Pushed after a one-line change", "kB", "the layers that the registry did not have before"
    ),
    "code_rebuild_s": Measure("Rebuild after a one-line change", "s", "`docker build`, median of 9"),
    "dependency_rebuild_s": Measure(
        "Rebuild after a new dependency", "s", "`docker build` with a warm package cache, median of 3"
    ),
    "full_rebuild_s": Measure("Build without cached layers", "s", "`docker build --no-cache`, warm package cache"),
    "start_2_cpus_ms": Measure("Start, 2 CPUs", "ms", "container start to the first 200 of `/health`, median of 9"),
    "start_quarter_cpu_ms": Measure("Start, 0.25 CPU", "ms", "the same on the smallest Fargate task's CPU"),
    "requests_per_second": Measure(
        "Requests per second, 4 workers each", "", "16 connections for 3 s, 1 CPU, median of 5"
    ),
    "p99_ms": Measure("99th percentile, 4 workers each", "ms", "in the same runs"),
    "memory_mb": Measure("Memory, 4 workers each", "MB", "`docker stats` after the load, in the same runs"),
    "own_requests_per_second": Measure(
        "Requests per second, as started", "", "each image's own command: ours has 1 worker for 1 CPU, the others 4"
    ),
    "own_p99_ms": Measure("99th percentile, as started", "ms", "in the same runs"),
    "own_memory_mb": Measure("Memory, as started: 4 workers, ours 1", "MB", "in the same runs"),
    "lost_requests": Measure(
        "Requests lost after SIGTERM", "of 100", "new connections in the 2 s that a load balancer takes to notice"
    ),
    "lines_after_the_reason": Measure(
        "Log lines after the reason of a failed start", "", "a lifespan that raises `ConnectionError`, median of 9"
    ),
    "overload_goodput": Measure(
        "Answered at 10 times the capacity",
        "% of it",
        "handlers that compute for 20 ms, new connections for 8 s, 1 CPU",
    ),
    "overload_p99_s": Measure("99th percentile of these answers", "s", "of those with status 200"),
    "overload_unanswered": Measure("Requests without an answer", "%", "cut off, or not answered in 10 s"),
    "overload_health": Measure("Health checks answered meanwhile", "%", "in a second, four checks a second"),
    "overload_back_s": Measure("Back to normal after it", "s", "until a request is answered in half a second"),
    "memory_after_bodies_mb": Measure(
        "Memory after large bodies", "MB more", "60 of 9.9 MB at once, and 500 small requests after them"
    ),
}
NO_BASE = {"over_base_compressed_mb"}  # an image from scratch has no base
IN_README = ["compressed_mb", "pushed_by_a_line_kb", "start_quarter_cpu_ms", "memory_mb", "own_memory_mb"]
SIX = [*IN_README[:2], "code_rebuild_s", "start_quarter_cpu_ms", "own_p99_ms", "own_memory_mb"]  # in the picture


def load() -> Any:
    """Return the recorded results."""
    return json.loads(RESULTS.read_text())


def documents(results: dict[str, Any]) -> dict[Path, str]:
    """Return what `make bench` writes into each document, as Markdown."""
    few = table(results, IN_README, ["conventional", "slim", "minimal"])
    return {ROOT / "README.md": few, ROOT / "docs/benchmarks.md": everything(results)}


def everything(results: dict[str, Any]) -> str:
    """Return every table: images, how each figure is measured, process and rendering."""
    process, rendering = results["process"], results["rendering"]
    middleware = [
        [name, f"{rate['requests_per_second']:,.0f}", f"{median(rate['ratios']):.2f}", spread(rate["ratios"])]
        for name, rate in process["middleware"].items()
    ]
    memory = [
        [name, f"{pss:.0f}", f"{pss / process['memory']['no preload']:.2f}"] for name, pss in process["memory"].items()
    ]
    one = process["workers"]["1"]["requests_per_second"]
    workers = [
        [
            count,
            f"{rate['requests_per_second']:,.0f}",
            f"{rate['requests_per_second'] / one:.2f}",
            f"{rate['p99_ms']:.0f}",
        ]
        for count, rate in process["workers"].items()
    ]
    copies = rendering["copy_ms"]
    rendered = [
        [f"`copier copy`, {name}", f"{ms:,.0f}", f"{ms / copies['one file']:.2f}"] for name, ms in copies.items()
    ]
    slowest, wait = max(rendering["question_ms"].items(), key=lambda question: question[1])
    rendered.append([f"longest wait for a question, `{slowest}`", f"{wait:.0f}", ""])
    known = merged(results)["conventional"]
    how = [[measure.label, measure.how] for name, measure in MEASURES.items() if name in known]
    database = []
    for runtime in ("slim", "minimal"):
        without, with_one = results["database"][runtime], results["database"][f"{runtime}-postgres"]
        more = with_one["compressed_mb"] - without["compressed_mb"]
        slower = with_one["start_2_cpus_ms"] / without["start_2_cpus_ms"]
        database.append([IMAGES[runtime], f"{more:.1f}", f"{slower:.2f}"])
    updates = [
        [what.replace("_", " "), f"{number:,.3g}" if number % 1 else f"{number:,.0f}"]
        for what, number in results["updates"].items()
    ]
    return "\n\n".join(
        [
            "## Images",
            table(results, list(MEASURES), list(IMAGES)),
            "## How each figure is measured",
            markdown(["figure", "measured as"], how, numbers=False),
            "## Request middleware and logs",
            "A ratio is the middle one of six rounds, so it is not that of the two medians.",
            markdown(["one worker, one CPU", "requests/s", "ratio", "least to most"], middleware),
            "## Preloading the application",
            markdown(["four workers, shared pages counted once (PSS)", "MiB", "ratio"], memory),
            "## Workers on one CPU",
            markdown(["workers", "requests/s", "ratio", "p99, ms"], workers),
            "## Rendering",
            markdown(["", "ms", "ratio"], rendered),
            "## A database",
            markdown(["`database=postgres` against `none`", "compressed, MB more", "start, 2 CPUs, ratio"], database),
            "## Updates",
            "Services of the last four releases, each with random lines of its owner, move to this version.",
            markdown(["", "number"], updates),
        ]
    )


def table(results: dict[str, Any], measures: list[str], images: list[str]) -> str:
    """Return these figures of these images, each with its ratio to the conventional image's."""
    known = merged(results)
    rows = []
    for name in measures:
        if name not in known["conventional"]:  # not measured yet
            continue
        measure = MEASURES[name]
        cells = [
            "-" if image == "minimal" and name in NO_BASE else cell(known[image][name], known["conventional"][name])
            for image in images
        ]
        rows.append([f"{measure.label}, {measure.unit}".removesuffix(", "), *cells])
    return markdown(["", *(IMAGES[image] for image in images)], rows)


def markdown(head: list[str], rows: list[list[str]], numbers: bool = True) -> str:
    """Return a Markdown table; with `numbers`, all columns but the first are aligned to the right."""
    rule = ["---", *(["---:" if numbers else "---"] * (len(head) - 1))]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, rule, *rows])


def cell(value: float, conventional: float) -> str:
    """Return a figure, and its ratio to the conventional image's where that says something."""
    text = f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"
    if value == conventional or not conventional or value / conventional < 0.005:
        return text
    return f"{text} ({value / conventional:.2f})"


def median(values: list[float]) -> float:
    """Return the middle one of sorted values."""
    return values[len(values) // 2]


def spread(values: list[float]) -> str:
    """Return the first and the last of sorted values."""
    return f"{values[0]:.2f} to {values[-1]:.2f}"


def merged(results: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Return all that is known of each image."""
    parts = ("images", "starts", "requests", "failures")
    return {image: {k: v for part in parts for k, v in results[part][image].items()} for image in IMAGES}


def write(results: dict[str, Any]) -> None:
    """Put the tables between the marks of each document."""
    for document, text in documents(results).items():
        before, begin, rest = document.read_text().partition("<!-- make bench: from here -->\n")
        _, end, after = rest.partition("<!-- to here -->\n")
        assert end, f"{document} has no marks"
        document.write_text(f"{before}{begin}\n{text}\n\n{end}{after}")


def plot(results: dict[str, Any]) -> None:
    """Draw the six figures that a user feels, a panel each; ours in one colour."""
    from matplotlib import pyplot

    known = merged(results)
    for theme, path in PICTURES.items():
        ink, paper, grey, ours = {
            "light": ("#1f2328", "#ffffff", "#afb8c1", "#0969da"),
            "dark": ("#e6edf3", "#0d1117", "#6e7681", "#4493f8"),
        }[theme]
        figure, panels = pyplot.subplots(2, 3, figsize=(11, 4.6), layout="constrained", facecolor=paper)
        figure.suptitle("Shorter is better", color=ink, fontsize=12)
        for panel, name in zip(panels.flat, SIX, strict=True):
            measure = MEASURES[name]
            values = [known[image][name] for image in IMAGES]
            bars = panel.barh(
                [label.strip("`") for label in IMAGES.values()], values, color=[grey, grey, ours, ours], height=0.7
            )
            panel.bar_label(bars, [cell(value, value) for value in values], padding=3, color=ink, fontsize=9)
            panel.set_title(f"{measure.label}, {measure.unit}", color=ink, fontsize=10, loc="left")
            panel.set_facecolor(paper)
            panel.set_xlim(0, max(values) * 1.25)
            panel.set_xticks([])
            panel.tick_params(colors=ink, length=0, labelsize=9)
            panel.invert_yaxis()
            panel.spines[:].set_visible(False)
        figure.savefig(path, dpi=100, metadata={"Software": None})
        pyplot.close(figure)
