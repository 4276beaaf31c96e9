"""The tables and the plot of benchmarks/results.json; the README shows both."""

import json
from typing import Any

from benchmarks.containers import ROOT

RESULTS = ROOT / "benchmarks/results.json"
PLOT = ROOT / "benchmarks/results.png"
MEASURES = {
    "total_mb": "image, MB",
    "compressed_mb": "compressed, MB",
    "over_base_compressed_mb": "over the base, compressed, MB",
    "without_standard_library_compressed_mb": "dependencies and source alone, compressed, MB",
    "pushed_by_a_line_kb": "pushed by a one-line change, kB",
    "code_rebuild_s": "rebuild after a one-line change, s",
    "dependency_rebuild_s": "rebuild after a new dependency, s",
    "full_rebuild_s": "build without cached layers, s",
    "start_2_cpus_ms": "start to first 200 with 2 CPUs, ms",
    "start_quarter_cpu_ms": "start to first 200 with 0.25 CPU, ms",
    "requests_per_second": "requests per second, 1 CPU, 4 workers",
    "p99_ms": "99th percentile, 4 workers, ms",
    "memory_mb": "memory, 4 workers, MB",
    "own_requests_per_second": "requests per second, 1 CPU, own command",
    "own_p99_ms": "99th percentile, own command, ms",
    "own_memory_mb": "memory, own command, MB",
}
IMAGES = {"conventional": "conventional", "uv": "uv's example", "slim": "slim", "minimal": "minimal"}
NO_BASE = {"over_base_compressed_mb"}  # an image from scratch has none


def tables(results: dict[str, Any]) -> str:
    """Return the results as Markdown: each figure and its ratio to the conventional image's."""
    images = merged(results)
    lines = [f"| | {' | '.join(IMAGES.values())} |", f"|---|{'---:|' * len(IMAGES)}"]
    for measure, label in MEASURES.items():
        cells = [cell(images[name][measure], images["conventional"][measure]) for name in IMAGES]
        if measure in NO_BASE:
            cells[-1] = "-"
        lines.append(f"| {label} | {' | '.join(cells)} |")
    process = results["process"]
    lines += ["", "| one worker, one CPU | requests/s | ratio | least to most |", "|---|---:|---:|---:|"]
    for name, rate in process["middleware"].items():
        ratios = rate["ratios"]
        spread = f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
        lines.append(f"| {name} | {rate['requests_per_second']:.0f} | {ratios[len(ratios) // 2]:.2f} | {spread} |")
    lines += ["", "| four workers | PSS, MiB | ratio |", "|---|---:|---:|"]
    for name, pss in process["memory"].items():
        lines.append(f"| {name} | {pss:.0f} | {pss / process['memory']['no preload']:.2f} |")
    lines += ["", "| workers on one CPU | requests/s | ratio | p99, ms |", "|---|---:|---:|---:|"]
    one = process["workers"]["1"]["requests_per_second"]
    for count, measured in process["workers"].items():
        rate = measured["requests_per_second"]
        lines.append(f"| {count} | {rate:.0f} | {rate / one:.2f} | {measured['p99_ms']:.0f} |")
    lines += ["", "| rendering | ms | ratio |", "|---|---:|---:|"]
    rendering = results["rendering"]
    for name, milliseconds in rendering["copy_ms"].items():
        ratio = milliseconds / rendering["copy_ms"]["one file"]
        lines.append(f"| `copier copy`, {name} | {milliseconds:.0f} | {ratio:.2f} |")
    name, milliseconds = max(rendering["question_ms"].items(), key=lambda question: question[1])
    lines.append(f"| the longest wait for a question, `{name}` | {milliseconds:.0f} | |")
    return "\n".join(lines)


def write(results: dict[str, Any]) -> None:
    """Put the tables between the marks in the README."""
    readme = ROOT / "README.md"
    before, begin, rest = readme.read_text().partition("<!-- make bench: from here -->\n")
    _, end, after = rest.partition("<!-- to here -->\n")
    readme.write_text(f"{before}{begin}\n{tables(results)}\n\n{end}{after}")


def merged(results: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Return all that is known of each image."""
    return {name: results["images"][name] | results["starts"][name] | results["requests"][name] for name in IMAGES}


def cell(value: float, conventional: float) -> str:
    """Return a figure, and its ratio if it is another image's than the conventional one and not next to nothing."""
    text = f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
    ratio = f"{value / conventional:.2f}"
    return text if value == conventional or ratio == "0.00" else f"{text} ({ratio})"


def plot(results: dict[str, Any]) -> None:
    """Draw each measure of each image as a ratio to the conventional one's."""
    from matplotlib import pyplot

    images = merged(results)
    figure, axes = pyplot.subplots(figsize=(9, 8), layout="constrained")
    thickness = 0.8 / len(IMAGES)
    for place, (name, label) in enumerate(IMAGES.items()):
        ratios = [
            0 if name == "minimal" and measure in NO_BASE else images[name][measure] / images["conventional"][measure]
            for measure in MEASURES
        ]
        axes.barh([number + place * thickness for number in range(len(ratios))], ratios, thickness, label=label)
    axes.set_yticks([number + 0.3 for number in range(len(MEASURES))], list(MEASURES.values()))
    axes.invert_yaxis()
    axes.set_xlabel("ratio to the conventional image")
    axes.legend()
    figure.savefig(PLOT, dpi=80, metadata={"Software": None})


def load() -> Any:
    """Return the recorded results."""
    return json.loads(RESULTS.read_text())
