"""A built image, and a container of it."""

import io
import json
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import IO, Any

from tests.support.commands import run

Build = Callable[..., str]
Start = Callable[..., "Container"]


def docker(*arguments: str, errors: bool = False) -> str:
    """Return what a docker command prints, with stderr if `errors`; if it fails, show why and raise."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True)
    if done.returncode:
        sys.stderr.write(done.stderr)
        done.check_returncode()
    return (done.stdout + done.stderr * errors).strip()


class Container:
    """A running container."""

    def __init__(self, name: str, port: int) -> None:
        self.name = name
        self.port = port

    def inspect(self, template: str) -> str:
        return docker("inspect", "--format", template, self.name)

    def wait_until_healthy(self, seconds: float = 60) -> None:
        """Wait for Docker's own health status; fails with the log."""
        deadline = time.monotonic() + seconds
        while (status := self.inspect("{{.State.Health.Status}}")) != "healthy":
            if time.monotonic() > deadline or self.inspect("{{.State.Running}}") != "true":
                raise AssertionError(f"the container is {status}:\n{self.log()}")
            time.sleep(0.2)

    @cached_property
    def url(self) -> str:
        """Where it is published; a container that has ended is nowhere."""
        return "http://" + docker("port", self.name, f"{self.port}/tcp").splitlines()[0]

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=10) as response:
            return json.load(response)

    def log(self) -> str:
        return docker("logs", self.name, errors=True)

    def files(self) -> list[str]:
        """Return the path of every file and directory of its root, without a leading slash."""
        return run("sh", "-c", f"docker export {self.name} | tar --list").stdout.splitlines()

    def execute(self, *command: str) -> str:
        return docker("exec", self.name, *command)


@contextmanager
def running(image: str, *arguments: str, port: int = 8000) -> Iterator[Container]:
    """Run an image with extra arguments for `docker run`; the container is removed at the end."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    docker("run", "--detach", "--name", name, "--publish", f"127.0.0.1::{port}", *arguments, image)
    try:
        yield Container(name, port)
    finally:
        docker("rm", "--force", name)


def saved_files(image: str) -> Iterator[tuple[str, IO[bytes]]]:
    """Yield the digest and the file of each layer of an image, the base image's first."""
    with tempfile.TemporaryFile() as file:
        subprocess.run(["docker", "save", image], stdout=file, check=True)
        file.seek(0)
        with tarfile.open(fileobj=file) as saved:
            (manifest,) = json.load(saved.extractfile("manifest.json") or io.BytesIO())
            digests = json.load(saved.extractfile(manifest["Config"]) or io.BytesIO())["rootfs"]["diff_ids"]
            for digest, name in zip(digests, manifest["Layers"], strict=True):
                yield digest, saved.extractfile(name) or io.BytesIO()


def saved_layers(image: str) -> Iterator[tuple[str, tarfile.TarFile]]:
    """Yield the digest and the content of each layer."""
    for digest, file in saved_files(image):
        with tarfile.open(fileobj=file) as layer:
            yield digest, layer
