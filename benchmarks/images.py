"""What the image costs: its size, a push, a rebuild, a start, requests, memory; each beside two conventional images.

All are built in one run from the same application and the same base image; where time is measured they take turns.
"""

import re
import shutil
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.containers import CONVENTIONAL, PLAIN, ROOT, load, render, running, step
from tests.support.containers import docker
from tests.support.registry import REGISTRY, ask, layers

OURS = ["slim", "minimal"]
NAMES = ["conventional", "uv", *OURS]
BASELINES = ROOT / "benchmarks/baselines"
WORKERS = 4  # the conventional command line's
DEPENDENCIES = ["itsdangerous", "blinker", "tabulate"]  # to add, one a round

ROUNDS = 7  # of load

Layers = dict[str, int]
Rounds = dict[str, list[float]]  # a figure of each round, by its name; the images take turns in a round


class Image:
    """A context to build from, and the image."""

    def __init__(self, name: str, folder: Path, arguments: list[str]) -> None:
        """Take the folder as it will be changed, and what `docker build` needs beside it."""
        self.name = name
        self.tag = f"{REGISTRY}/bench/{name}"
        self.folder = folder
        self.arguments = arguments
        self.ids: set[str] = set()  # of all that has been built

    def build(self, *arguments: str) -> float:
        """Build, and return the seconds that took."""
        begun = time.monotonic()
        built = docker("build", "--quiet", "--tag", self.tag, *self.arguments, *arguments, str(self.folder))
        took = time.monotonic() - begun
        # The next build may fail if what loses its name to it is collected meanwhile: moby/buildkit#6521.
        docker("tag", built, f"{self.tag}:{len(self.ids)}")
        self.ids.add(built)
        return took

    def change_code(self) -> None:
        """Change one line, to what no cached layer has."""
        route = self.folder / "src/my_service/routers/hello.py"
        route.write_text(re.sub(r'(, \{name\})[^"]*', rf"\1! {time.time_ns()}", route.read_text()))

    def push(self) -> Layers:
        """Push, and return the compressed size of each layer by digest."""
        docker("push", "--quiet", self.tag)
        return layers(f"bench/{self.name}", "latest")

    def unpacked(self, pushed: Layers) -> int:
        """Return the size of the files of all layers; engines count different things as the size of an image."""
        size = 0
        for layer in pushed:
            with ask(f"bench/{self.name}/blobs/{layer}") as blob, tarfile.open(fileobj=blob, mode="r|gz") as archive:
                size += sum(member.size for member in archive)
        return size

    def add_dependency(self, name: str, python: str, uv: Path) -> None:
        """Add one to pyproject.toml and lock it, with the Python and the uv of the images; no cached layer has it."""
        project = self.folder / "pyproject.toml"
        added = f'dependencies = [ # {time.time_ns()}\n"{name}",'
        project.write_text(project.read_text().replace("dependencies = [", added, 1))
        self.lock(python, uv)

    def lock(self, python: str, uv: Path) -> None:
        """Write or renew uv.lock."""
        mounts = [f"--volume={self.folder}:/work", f"--volume={uv}:/usr/local/bin/uv", "--workdir=/work"]
        docker("run", "--rm", *mounts, python, "uv", "lock", "--quiet")

    def run(self, *arguments: str, workers: int = WORKERS, command: tuple[str, ...] = ()) -> Any:
        """Run it; how many workers a conventional image has is in its command line, and WORKERS without another one."""
        environment = [f"--env=WEB_CONCURRENCY={workers}", "--env=DRAIN_SECONDS=0"]  # a later one counts
        return running(self.tag, "--memory=2g", *environment, *arguments, command=command)


Prepared = tuple[list[Image], str, Path]  # images that can be built, the Python image and a uv binary


def prepare(folder: Path) -> Prepared:
    """Render the service, and lay out the same one for the baselines."""
    render(folder / "slim")
    render(folder / "minimal", runtime="minimal", description="Another one, which shares no cached layer.")
    uv, python = base_images(folder)
    project = (folder / "slim/pyproject.toml").read_text()
    service = re.findall(r"^service = \[\n(.*?)^\]", project, re.M | re.S)[0]
    service = service.replace('"uvicorn>', '"uvicorn[standard]>')
    conventional = re.sub(r"^dependencies = \[\]\n.*", f"dependencies = [\n{service}]\n", project, flags=re.M | re.S)
    for name in ("conventional", "uv"):
        shutil.copytree(folder / "slim/src", folder / name / "src")
        (folder / name / "src/plain.py").write_text(PLAIN)
        (folder / name / "src/conventional.py").write_text(CONVENTIONAL)
        (folder / name / "pyproject.toml").write_text(
            conventional + '\n[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
        )
    arguments = [f"--build-arg=PYTHON_IMAGE={python}", f"--build-arg=UV_IMAGE={uv}"]
    images = [
        Image(name, folder / name, [] if name in OURS else [*arguments, f"--file={BASELINES / name}.Dockerfile"])
        for name in NAMES
    ]
    return locked(images, folder, uv, python)


def prepare_database(folder: Path) -> Prepared:
    """Render the service with and without a database."""
    for name in OURS:
        render(folder / name, runtime=name)
        render(folder / f"{name}-postgres", runtime=name, database="postgres")
    images = [Image(name, folder / name, []) for runtime in OURS for name in (runtime, f"{runtime}-postgres")]
    return locked(images, folder, *base_images(folder))


def base_images(folder: Path) -> list[str]:
    """Return the uv image and the Python image that the rendered Dockerfile names."""
    dockerfile = (folder / "slim/Dockerfile").read_text()
    return [re.findall(rf"^FROM (\S+/{name}:\S+)", dockerfile, re.M)[0] for name in ("uv", "python")]


def locked(images: list[Image], folder: Path, uv: str, python: str) -> Prepared:
    """Lock the dependencies of each image, with the Python and the uv of the images."""
    holder = docker("create", uv, "uv")
    docker("cp", f"{holder}:/uv", str(folder / "binary"))
    docker("rm", holder)
    for image in images:
        image.lock(python, folder / "binary")
    return images, python, folder / "binary"


def sizes(images: list[Image], python: str) -> dict[str, dict[str, float]]:
    """Return the size of each image, of its layers as a registry transfers them, and what a changed line pushes."""
    base = Image("base", Path(), [])
    docker("tag", python, base.tag)
    below = base.push()
    docker("image", "rm", base.tag)
    results = {}
    for image in images:
        step(f"images: pushing {image.name}, and again with a line changed")
        before = image.push()
        image.change_code()
        image.build()
        after = image.push()
        results[image.name] = {
            "total_mb": image.unpacked(before) / 1e6,
            "compressed_mb": sum(before.values()) / 1e6,
            "over_base_compressed_mb": sum(before[layer] for layer in before.keys() - below.keys()) / 1e6,
            "pushed_by_a_line_kb": sum(after[layer] for layer in after.keys() - before.keys()) / 1e3,
        }
    return results


def rebuilds(images: list[Image], python: str, uv: Path) -> dict[str, Rounds]:
    """Return the seconds of builds from nothing, after a changed line, and after an added dependency."""
    results: dict[str, Rounds] = {
        image.name: {"code_rebuild_s": [], "dependency_rebuild_s": [], "full_rebuild_s": []} for image in images
    }
    for number in range(9):
        for image in turn(images, number):
            step(f"images: a line changed, round {number + 1} of 9: {image.name}")
            image.change_code()
            results[image.name]["code_rebuild_s"].append(image.build())
    for number, dependency in enumerate(DEPENDENCIES):
        for image in turn(images, number):
            step(f"images: a dependency added, round {number + 1} of {len(DEPENDENCIES)}: {image.name}")
            image.add_dependency(dependency, python, uv)
            results[image.name]["dependency_rebuild_s"].append(image.build())
    for number in range(5):
        for image in turn(images, number):
            step(f"images: built without cached layers, round {number + 1} of 5: {image.name}")
            results[image.name]["full_rebuild_s"].append(image.build("--no-cache"))
    return results


def start(images: list[Image], cpus: str, rounds: int = 9) -> Rounds:
    """Return the milliseconds of that many starts of each image."""
    milliseconds: Rounds = {image.name: [] for image in images}
    for number in range(rounds):
        for image in turn(images, number):
            step(f"images: start with {cpus} CPUs, round {number + 1} of {rounds}: {image.name}")
            with image.run(f"--cpus={cpus}") as (_, took):
                milliseconds[image.name].append(took * 1000)
    return milliseconds


def loaded(images: list[Image], workers: dict[str, int]) -> dict[str, Rounds]:
    """Return requests per second, their 99th percentile and the container's memory after them, at one CPU."""
    results: dict[str, Rounds] = {name: {"requests_per_second": [], "p99_ms": [], "memory_mb": []} for name in workers}
    images = [image for image in images if image.name in workers]
    for number in range(ROUNDS):
        for image in turn(images, number):
            count = workers[image.name]
            step(f"images: requests to {count} workers, round {number + 1} of {ROUNDS}: {image.name}")
            with image.run("--cpus=1", "--log-driver=none", workers=count) as (container, _):
                load(container)
                rate, p99 = load(container)
                for figure, value in zip(results[image.name].values(), (rate, p99, megabytes(container)), strict=True):
                    figure.append(value)
    return results


def turn(images: list[Image], number: int) -> list[Image]:
    """Return the images in the order of a round, so that each comes first as often as the others."""
    first = number % len(images)
    return images[first:] + images[:first]


def megabytes(container: str) -> float:
    """Return what the engine counts as the container's memory, without the cache that it can give back."""
    number, unit = re.findall(r"^([\d.]+)(\w+)", docker("stats", "--no-stream", "--format={{.MemUsage}}", container))[0]
    return float(number) * {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}[unit] / 1e6


@contextmanager
def built(prepare: Callable[[Path], Prepared] = prepare) -> Iterator[Prepared]:
    """Build what is prepared; all of it is removed at the end."""
    with tempfile.TemporaryDirectory() as name:
        images, python, uv = prepare(Path(name))
        try:
            for image in images:
                step(f"images: building {image.name}")
                image.build()
            yield images, python, uv
        finally:
            for built in sorted(set[str]().union(*(image.ids for image in images))):
                docker("image", "rm", "--force", built)


def costs() -> dict[str, dict[str, float | list[float]]]:
    """Return what each image costs to keep and to build."""
    with built() as (images, python, uv):
        sized, rebuilt = sizes(images, python), rebuilds(images, python, uv)
    return {name: sized[name] | rebuilt[name] for name in NAMES}


def requests() -> dict[str, Rounds]:
    """Return how each image serves with the same workers, and with those it has by itself."""
    with built() as (images, *_):
        same = loaded(images, dict.fromkeys(NAMES, WORKERS))
        own = same | loaded(images, dict.fromkeys(OURS, 1))
    return {image: same[image] | {f"own_{name}": value for name, value in own[image].items()} for image in NAMES}


def starts() -> dict[str, Rounds]:
    """Return the milliseconds from the start of a container to its first answer with status 200."""
    with built() as (images, *_):
        two, quarter = start(images, "2"), start(images, "0.25")
    return {name: {"start_2_cpus_ms": two[name], "start_quarter_cpu_ms": quarter[name]} for name in NAMES}


def database() -> dict[str, dict[str, float | list[float]]]:
    """Return what the answer database=postgres costs: compressed megabytes, and milliseconds of a start."""
    with built(prepare_database) as (images, *_):
        size = {image.name: sum(image.push().values()) / 1e6 for image in images}
        started = start(images, "2", rounds=25)  # their differences are small
    return {image.name: {"compressed_mb": size[image.name], "start_2_cpus_ms": started[image.name]} for image in images}
