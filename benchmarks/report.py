"""The tables and the pictures of benchmarks/results.json, for docs/benchmarks.md and the README."""

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.containers import ROOT
from benchmarks.growth import LOADS

RESULTS = ROOT / "benchmarks/results.json"
PICTURES = {theme: ROOT / f"docs/benchmarks-{theme}.png" for theme in ("light", "dark")}
GROWTH = ROOT / "docs/growth.png"
IMAGES = {"conventional": "conventional", "uv": "uv's example", "slim": "`slim`", "minimal": "`minimal`"}

Figure = float | list[float]  # of all rounds, or of each


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
    "full_rebuild_s": Measure(
        "Build without cached layers", "s", "`docker build --no-cache`, warm package cache, median of 5"
    ),
    "start_2_cpus_ms": Measure("Start, 2 CPUs", "ms", "container start to the first 200 of `/health`, median of 9"),
    "start_quarter_cpu_ms": Measure("Start, 0.25 CPU", "ms", "the same on the smallest Fargate task's CPU"),
    "requests_per_second": Measure(
        "Requests per second, 4 workers each", "", "16 connections for 3 s, 1 CPU, median of 7"
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
    few = table(results, IN_README, ["conventional", "slim", "minimal"], interval=False)
    return {ROOT / "README.md": few, ROOT / "docs/benchmarks.md": everything(results)}


def everything(results: dict[str, Any]) -> str:
    """Return every table: images, how each figure is measured, process and rendering."""
    process, rendering = results["process"], results["rendering"]
    plain, apart = process["middleware"]["no middleware, no logs"], process["memory"]["no preload"]
    middleware = [[name, cell(rates, plain)] for name, rates in process["middleware"].items()]
    memory = [[name, cell(pss, apart)] for name, pss in process["memory"].items()]
    growth = results["growth"]
    servers = list(growth["offered"])
    sizes = [
        [f"{size}, {unit}", *(cell(row[name][figure], row["conventional"][figure]) for name in servers)]
        for figure, unit in (("requests_per_second", "requests/s"), ("memory_mb", "MB"))
        for size, row in growth["requests"].items()
    ]
    offered = [
        [f"{times:g}", *(f"{growth['offered'][name][number]:.2g}" for name in servers)]
        for number, times in enumerate(LOADS)
    ]
    files = [[f"{int(count):,}", f"{seconds:.3g}"] for count, seconds in growth["updates"].items()]
    copies = rendering["copy_ms"]
    rendered = [[f"`copier copy`, {name}", cell(ms, copies["one file"])] for name, ms in copies.items()]
    slowest, wait = max(rendering["question_ms"].items(), key=lambda question: question[1])
    rendered.append([f"longest wait for a question, `{slowest}`", f"{wait:.0f}"])
    known = merged(results)["conventional"]
    how = [[measure.label, measure.how] for name, measure in MEASURES.items() if name in known]
    database = []
    for runtime in ("slim", "minimal"):
        without, with_one = results["database"][runtime], results["database"][f"{runtime}-postgres"]
        more = with_one["compressed_mb"] - without["compressed_mb"]
        slower = cell(with_one["start_2_cpus_ms"], without["start_2_cpus_ms"])
        database.append([IMAGES[runtime], f"{more:.1f}", slower])
    updates = dict(results["updates"])
    seconds = updates.pop("seconds")
    met = [[what.replace("_", " "), f"{number:,}"] for what, number in updates.items()]
    took = [[f"`{way}`", cell(each, seconds["copier update"])] for way, each in seconds.items()]
    return "\n\n".join(
        [
            "## Images",
            table(results, list(MEASURES), list(IMAGES)),
            "## How each figure is measured",
            markdown(["figure", "measured as"], how, numbers=False),
            "## Request middleware and logs",
            markdown(["one worker, one CPU", "requests/s"], middleware),
            "## Preloading the application",
            markdown(["four workers, shared pages counted once (PSS)", "MiB"], memory),
            "## How cost grows",
            "![Requests per second, waiting times and updates against their size](growth.png)",
            "The other servers run the conventional image's application, each with its own access log.",
            markdown(["workers", *servers], sizes),
            "One worker on a CPU of its own computes for 20 ms in each request.",
            markdown(["offered load, times the capacity: 99th percentile, s", *servers], offered),
            markdown(["files of the owner, update of one service", "s"], files),
            "## Rendering",
            markdown(["", "ms"], rendered),
            "## A database",
            markdown(["`database=postgres` against `none`", "compressed, MB more", "start, 2 CPUs, ms"], database),
            "## Updates",
            "Services of the last four releases, each with random lines of its owner, move to this version.",
            markdown(["", "number"], met),
            markdown(["the same services by both ways", "s"], took),
        ]
    )


def table(results: dict[str, Any], measures: list[str], images: list[str], interval: bool = True) -> str:
    """Return these figures of these images, each with its ratio to the conventional image's."""
    known = merged(results)
    rows = []
    for name in measures:
        if name not in known["conventional"]:  # not measured yet
            continue
        measure = MEASURES[name]
        cells = [
            "-"
            if image == "minimal" and name in NO_BASE
            else cell(known[image][name], known["conventional"][name], interval)
            for image in images
        ]
        rows.append([f"{measure.label}, {measure.unit}".removesuffix(", "), *cells])
    return markdown(["", *(IMAGES[image] for image in images)], rows)


def markdown(head: list[str], rows: list[list[str]], numbers: bool = True) -> str:
    """Return a Markdown table; with `numbers`, all columns but the first are aligned to the right."""
    rule = ["---", *(["---:" if numbers else "---"] * (len(head) - 1))]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, rule, *rows])


def cell(figure: Figure, base: Figure, interval: bool = True) -> str:
    """Return the median of a figure, and where that says something, of its ratio to the base's in each round."""
    value = middle(figure)
    text = f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"
    if figure == base or not middle(base) or value / middle(base) < 0.005:
        return text
    if isinstance(figure, list) and isinstance(base, list):
        ratios = [one / other for one, other in zip(figure, base, strict=True)]
        least_to_most = f", {min(ratios):.2f} to {max(ratios):.2f}" if interval else ""
        return f"{text} ({median(ratios):.2f}{least_to_most})"
    return f"{text} ({value / middle(base):.2f})"


def middle(figure: Figure) -> float:
    """Return a figure, or the median of its rounds."""
    return median(figure) if isinstance(figure, list) else figure


def merged(results: dict[str, Any]) -> dict[str, dict[str, Figure]]:
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
    """Draw the six figures that a user feels, a panel each, with ours in one colour; and how cost grows."""
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
            values = [middle(known[image][name]) for image in IMAGES]
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

    growth = results["growth"]
    figure, (requests, waits, updates) = pyplot.subplots(1, 3, figsize=(11, 3.6), layout="constrained")
    for name, times in growth["offered"].items():
        rates = [middle(row[name]["requests_per_second"]) for row in growth["requests"].values()]
        requests.plot(list(growth["requests"]), rates, marker="o", label=name)
        waits.plot(LOADS, times, marker="o", label=name)
    updates.plot([int(count) for count in growth["updates"]], list(growth["updates"].values()), marker="o")
    requests.set_title("Requests per second, by workers", fontsize=10)
    waits.set_title("99th percentile, s, by offered load", fontsize=10)
    updates.set_title("Update of one service, s, by files", fontsize=10)
    waits.loglog(base=10)
    updates.semilogx()
    for panel in (requests, waits, updates):
        panel.set_ylim(bottom=0 if panel is not waits else None)
    requests.legend(fontsize=8)
    figure.savefig(GROWTH, dpi=100, metadata={"Software": None})
    pyplot.close(figure)
