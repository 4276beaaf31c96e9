"""The development loop: up, edit, break, repair, down; and what is said when it cannot start."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.commands import commit, edit, free_port, run, wait_until
from tests.support.template import PYTHON, Render

PORT = 8123


@pytest.fixture(scope="module")
def repository(render: Render, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A rendered repository in a directory with a space in its name, owned by an ordinary user."""
    repository = tmp_path_factory.mktemp("a b") / "dev loop"
    shutil.copytree(render(port=PORT), repository)
    run("make", "engine", cwd=repository)  # names the project, also for the tests that call Compose themselves
    yield repository
    run("docker", "compose", "down", "--rmi", "local", cwd=repository)


@pytest.fixture
def up(repository: Path) -> Iterator[Path]:
    """The same, started."""
    try:
        run("make", "up", cwd=repository)
        yield repository
    finally:
        run("make", "down", cwd=repository)


def answer(path: str, port: int = PORT) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as response:
        return str(response.read().decode())


def test_the_development_server_reloads_after_a_change_a_mistake_and_its_repair(up: Path) -> None:
    route = up / "src/my_service/routers/hello.py"
    before = route.read_text()
    compiled = "import fastapi, os; assert os.path.exists(fastapi.__cached__)"  # or each reload compiles it
    run("docker", "compose", "exec", "-T", "api", "python", "-c", compiled, cwd=up)
    assert answer("/hello/Ada") == '{"message":"Hello, Ada!"}'
    route.write_text(before.replace("{name}!", "{name}?"))
    wait_until(lambda: "Ada?" in answer("/hello/Ada"))
    route.write_text(before + "\ndef broken(:\n")
    wait_until(lambda: "SyntaxError" in run("docker", "compose", "logs", cwd=up).stdout)
    route.write_text(before)
    wait_until(lambda: "Ada!" in answer("/hello/Ada"))
    run("make", "up", cwd=up)  # the port is its own
    assert run("docker", "compose", "ps", "--quiet", cwd=up).stdout.count("\n") == 1


STREAM = """

@router.get("/words")
def words() -> str:
    return WORDS


@router.get("/stream")
async def stream() -> StreamingResponse:
    async def events() -> AsyncIterator[str]:
        while True:
            yield "data: word\\n\\n"
            await asyncio.sleep(0.1)

    return StreamingResponse(events(), media_type="text/event-stream")
"""
IMPORTS = """\
import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from fastapi.responses import StreamingResponse

WORDS = (Path(__file__).parent / "words.sql").read_text()
"""


def test_a_file_that_is_not_python_reloads_while_a_client_reads_a_stream(up: Path) -> None:
    route, words = up / "src/my_service/routers/hello.py", up / "src/my_service/routers/words.sql"
    before = route.read_text()
    docstring, code = before.split("\n\n", 1)
    try:
        words.write_text("one")
        route.write_text(f"{docstring}\n\n{IMPORTS}{code}{STREAM}")
        wait_until(lambda: "one" in answer("/words"))
        with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/stream", timeout=5) as stream:
            assert stream.readline() == b"data: word\n"
            words.write_text("two")
            wait_until(lambda: "two" in answer("/words"))
    finally:
        route.write_text(before)
        words.unlink()


def test_the_compose_files_are_valid_alone_and_in_a_dev_container(repository: Path) -> None:
    run("docker", "compose", "config", "--quiet", cwd=repository)
    both = ("--file", "compose.yaml", "--file", ".devcontainer/compose.yaml")
    combined = json.loads(run("docker", "compose", *both, "config", "--format=json", cwd=repository).stdout)
    mounts = {mount["target"]: mount["source"] for mount in combined["services"]["api"]["volumes"]}
    assert mounts["/app"] == str(repository)


def names(repository: Path) -> dict[str, str]:
    """Return how Compose calls the project of a repository and its volumes, after a command of make."""
    run("make", "engine", cwd=repository)
    config = json.loads(run("docker", "compose", "config", "--format=json", cwd=repository).stdout)
    return {"project": config["name"]} | {key: volume["name"] for key, volume in config.get("volumes", {}).items()}


def test_two_checkouts_in_folders_of_one_name_share_nothing(repository: Path, tmp_path: Path) -> None:
    """Neither do copies with their .env; a name is also there where the folder's has no Latin letter."""
    one, two = (shutil.copytree(repository, tmp_path / folder / "サービス") for folder in ("one", "two"))
    (two / ".env").write_text(f"PORT={PORT + 1}\n")
    try:
        for checkout in (one, two):
            run("make", "up", cwd=checkout)
        assert answer("/health", PORT + 1) == '{"status":"healthy"}'
        run("make", "down", cwd=two)
        assert answer("/health") == '{"status":"healthy"}'
    finally:
        for checkout in (one, two):
            run("docker", "compose", "down", "--rmi", "local", cwd=checkout)


def test_a_checkout_keeps_its_volumes_and_a_copy_gets_its_own(render: Render, tmp_path: Path) -> None:
    one = shutil.copytree(render(database="postgres"), tmp_path / "one")
    (one / ".env").write_text("GREETING=Hi\nLOG_LEVEL=DEBUG")
    before = names(one)
    assert before["database-18"] == f"{before['project']}_database-18"
    assert names(one) == before
    assert (one / ".env").read_text() == f"GREETING=Hi\nLOG_LEVEL=DEBUG\nCOMPOSE_PROJECT_NAME={before['project']}\n"

    two = shutil.copytree(one, tmp_path / "two")
    (old,) = re.findall("write into .env: (.*)", run("make", "engine", cwd=two).stdout)
    assert not {*names(two).values()} & {*before.values()}
    (two / ".env").write_text(old)
    assert names(two) == before


def test_the_image_is_built_in_a_folder_with_a_space(repository: Path, image: str) -> None:
    run("make", "build", f"IMAGE={image}", cwd=repository)


def test_watch_reloads_the_source_and_rebuilds_for_a_dependency(default_repository: Path) -> None:
    (default_repository / "compose.override.yaml").write_text(
        f'services:\n  api:\n    ports: !override\n      - "127.0.0.1:{PORT}:8000"\n'
    )
    run("make", "engine", cwd=default_repository)
    with (default_repository / "watch.log").open("w") as log:
        watch = subprocess.Popen(["docker", "compose", "watch"], cwd=default_repository, stdout=log, stderr=log)
    try:
        wait_until(lambda: "Ada!" in answer("/hello/Ada"), 120)
        wait_until(lambda: "Watch enabled" in (default_repository / "watch.log").read_text())
        edit(default_repository / "src/my_service/routers/hello.py", "{name}!", "{name}?")
        wait_until(lambda: "Ada?" in answer("/hello/Ada"))
        edit(default_repository / "pyproject.toml", "dependencies = []", 'dependencies = ["six"]')
        has_six = ("docker", "compose", "exec", "-T", "api", "python", "-c", "import six")
        wait_until(lambda: run(*has_six, cwd=default_repository, check=False).returncode == 0, 120)
        wait_until(lambda: "Ada?" in answer("/hello/Ada"))
    finally:
        watch.terminate()
        watch.wait()
        run("docker", "compose", "down", "--rmi", "local", cwd=default_repository)


def test_a_settings_file_and_an_override_of_the_users_are_honoured(repository: Path) -> None:
    settings = (repository / ".env").read_text()
    (repository / ".env").write_text(settings + "GREETING='Bon$jour'\n")
    (repository / "compose.override.yaml").write_text(
        "services:\n  api:\n    environment:\n      ENVIRONMENT: stage\n"
        f'    ports: !override\n      - "127.0.0.1:{PORT + 1}:{PORT}"\n'
    )
    address = f"http://127.0.0.1:{PORT + 1}"
    try:
        with socket.create_server(("127.0.0.1", PORT)):  # taken, and not needed
            said = run("make", "up", cwd=repository).stdout.splitlines()[-1]
        assert said == f"The service is healthy: {address}/health, documentation at {address}/docs"
        assert "openapi.json" in answer("/docs", PORT + 1)
        assert "Bon$jour" in answer("/hello/Ada", PORT + 1)
        assert '"environment":"stage"' in answer("/health/version", PORT + 1)
    finally:
        run("make", "down", cwd=repository)
        (repository / ".env").write_text(settings)
        (repository / "compose.override.yaml").unlink()


def test_a_settings_file_means_the_same_without_a_container_engine(render: Render) -> None:
    port = free_port()
    repository = render(python_version=PYTHON)
    (repository / ".env").write_text(f"GREETING='Bon$jour'\nPORT={port}\n")
    served = subprocess.Popen(["make", "run"], cwd=repository, start_new_session=True)
    try:
        wait_until(lambda: "Bon$jour" in answer("/hello/Ada", port), 120)
    finally:
        os.killpg(served.pid, signal.SIGTERM)
        served.wait()


@pytest.mark.parametrize(
    ("file", "mistake", "reason"),
    [
        ("src/my_service/main.py", ("app = create_app(", "app = = create_app("), "SyntaxError: invalid syntax"),
        ("src/my_service/main.py", ("    yield\n", '    raise RuntimeError("no store")\n    yield\n'), "no store"),
        (
            "compose.yaml",
            ('DRAIN_SECONDS: "0"', 'DRAIN_SECONDS: "a"'),
            "drain_seconds: Input should be",
        ),
    ],
    ids=["syntax", "lifespan", "setting"],
)
def test_a_start_that_fails_ends_with_the_reason(
    repository: Path, file: str, mistake: tuple[str, str], reason: str
) -> None:
    before = (repository / file).read_text()
    edit(repository / file, *mistake)
    (repository / "compose.override.yaml").write_text("services: {api: {healthcheck: {start_period: 8s}}}\n")
    try:
        failed = run("make", "up", cwd=repository, check=False)
    finally:
        run("make", "down", cwd=repository)
        (repository / file).write_text(before)
        (repository / "compose.override.yaml").unlink()
    assert failed.returncode != 0
    said = failed.stdout.partition("The service api does not start")[2]
    assert reason in said


def test_make_up_reports_a_taken_port_in_one_line(repository: Path) -> None:
    with socket.create_server(("127.0.0.1", PORT)):
        failed = run("make", "up", cwd=repository, check=False)
    said = [line for line in failed.stdout.splitlines() if not line.startswith("make")]
    assert failed.returncode != 0
    assert len(said) == 1
    assert said[0].startswith(f"Port {PORT} is taken")


@pytest.mark.parametrize("suffix", ["yaml", "yml"])
def test_the_tests_run_in_compose_if_there_is_an_override(default_repository: Path, suffix: str) -> None:
    command = ("make", "--dry-run", "test", "ARGS=-k hello")
    assert "container service pytest --no-cov -k hello" in run(*command, "ON_HOST=", cwd=default_repository).stdout
    (default_repository / f"compose.override.{suffix}").write_text("services: {api: {environment: {A: b}}}\n")
    assert "api pytest --no-cov -k hello" in run(*command, "ON_HOST=", cwd=default_repository).stdout


@pytest.mark.parametrize("variable", ["NETRC", "SSL_CERT_FILE"])
@pytest.mark.parametrize("value", ["/missing", "/tmp", "Makefile"], ids=["missing", "folder", "relative"])
def test_a_variable_that_names_no_file_is_reported_in_one_line(repository: Path, variable: str, value: str) -> None:
    for target in ("up", "build", "lint"):
        failed = run("make", target, "ON_HOST=", cwd=repository, check=False, **{variable: value})
        assert failed.returncode != 0
        said = [line for line in failed.stdout.splitlines() if not line.startswith(("make", "bash "))]
        assert said == [f"{variable} is no absolute path of a file that you can read: {value}"]


def test_the_checkout_of_somebody_else_or_one_that_only_root_reads_is_reported(render: Render) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can act as other users")
    repository = render()
    (repository / "src").chmod(0o700)
    failed = run("make", "up", cwd=repository, check=False)
    assert failed.returncode != 0
    assert failed.stdout.startswith("You are root, and the container's user cannot read src/: chmod")

    commit(repository)
    (repository / "uv.lock").touch()
    run("chown", "--recursive", "1234:1234", repository)
    failed = run("make", "build", "ON_HOST=yes", cwd=repository, check=False)
    assert failed.returncode != 0
    assert "git config --global --add safe.directory" in failed.stdout


def test_the_development_container_has_what_the_readme_needs(repository: Path) -> None:
    files = ("--file", "compose.yaml", "--file", ".devcontainer/compose.yaml")
    try:
        run("docker", "compose", *files, "run", "--build", "--rm", "-T", "api", "make", "--version", cwd=repository)
        run("docker", "compose", *files, "run", "--rm", "-T", "api", "git", "--version", cwd=repository)
    finally:
        run("docker", "compose", *files, "down", "--rmi", "local", cwd=repository)


def test_a_missing_engine_is_reported_in_one_line(repository: Path) -> None:
    failed = run("make", "up", cwd=repository, check=False, DOCKER_HOST="tcp://127.0.0.1:1")
    said = [line for line in failed.stdout.splitlines() if not line.startswith("make")]
    assert failed.returncode != 0
    assert said == ["No container engine answers: start Docker and try again."]


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_the_name_of_a_checkout_leaves_all_other_lines(render: Render, tmp_path: Path, encoding: str) -> None:
    repository = shutil.copytree(render(), tmp_path / "mine")
    before = "API_KEY=abc\nPASSWORD=päss\nOTHER=1\n".encode(encoding)
    (repository / ".env").write_bytes(before)
    run("bash", "ops/development/prepare", cwd=repository, LC_ALL="C.UTF-8")
    after = (repository / ".env").read_bytes()
    assert after.startswith(before)
    assert re.fullmatch(rb"\n?COMPOSE_PROJECT_NAME=my-service-\d+\n", after.removeprefix(before))


def test_no_file_of_another_owner_is_left_behind(repository: Path, tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can act as other users")
    user = 1001  # not the image's own default
    mine = tmp_path / "mine"
    shutil.copytree(repository, mine, ignore=shutil.ignore_patterns("uv.lock", ".*cache", "__pycache__"))
    (mine / ".venv").mkdir()
    (mine / ".env").write_text("COMPOSE_PROJECT_NAME=mine\n")
    run("chown", "--recursive", f"{user}:{user}", tmp_path)
    # The engine is root's here, so the commands that `make` would run for this user are run for it.
    compose = ("docker", "compose", "run", "--rm", "--build", "--no-deps", "-T", f"--user={user}:{user}")
    try:
        commands = ("-v", f"{mine}:/app", "api", "sh", "-c", "uv lock && pytest")
        run(*compose, *commands, cwd=mine, UID=str(user), GID=str(user))
    finally:
        run("docker", "compose", "down", "--rmi", "local", cwd=mine)
    owners = {path.lstat().st_uid for path in mine.rglob("*")}
    assert owners == {user}
    assert (mine / "uv.lock").exists()
    assert list((mine / ".venv").iterdir()) == []


@pytest.fixture(scope="module")
def checked(render: Render) -> Path:
    """A committed service that passes its checks on this machine's Python."""
    repository = render(python_version=PYTHON)
    commit(repository)
    run("make", "test", "lint", "conflicts", cwd=repository)
    return repository


@pytest.mark.parametrize(
    ("target", "file", "mistake"),
    [
        ("test", "src/my_service/routers/hello.py", ('}, {name}!"', '}, {name}?"')),
        ("lint", "src/my_service/routers/hello.py", ("-> Hello:", "-> int:")),
        ("lint", "src/my_service/main.py", ("app = create_app(", "app  =  create_app(")),
        ("conflicts", "README.md", ("# my-service", "<<<<<<< before updating\n# my-service")),
    ],
)
def test_make_test_and_make_lint_fail_on_a_mistake(
    checked: Path, target: str, file: str, mistake: tuple[str, str]
) -> None:
    before = (checked / file).read_text()
    edit(checked / file, *mistake)
    failed = run("make", target, cwd=checked, check=False)
    (checked / file).write_text(before)
    assert failed.returncode != 0
