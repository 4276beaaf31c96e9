"""Log lines, whoever writes them."""

import asyncio
import json
import logging
import logging.handlers
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import structlog
from my_service.ops.app import create_app
from my_service.ops.logging import configure
from my_service.ops.settings import OpsSettings
from opentelemetry import trace
from structlog.typing import EventDict

from .log_lines import LogLines


def test_every_source_writes_the_same_kind_of_line(log_lines: LogLines) -> None:
    configure("INFO", {"service": "example"})
    structlog.get_logger().info("from structlog", answer=42)
    logging.getLogger("library").warning("from %s", "logging", extra={"answer": 42})
    logging.getLogger("uvicorn.error").info("from uvicorn", extra={"color_message": "from \x1b[1muvicorn"})
    logging.getLogger("gunicorn.error").info("from gunicorn")

    lines = log_lines()
    assert [line["event"].split()[-1] for line in lines] == ["structlog", "logging", "uvicorn", "gunicorn"]
    for line in lines:
        assert {"timestamp", "level", "event"} <= line.keys()
        assert line["service"] == "example"
        assert "color_message" not in line
    assert lines[0]["answer"] == lines[1]["answer"] == 42


def test_a_traceback_is_one_line_of_the_log(log_lines: LogLines) -> None:
    configure("INFO")
    try:
        raise RuntimeError("first\nsecond")
    except RuntimeError:
        structlog.get_logger().exception("failed")
        logging.getLogger("library").exception("failed")
    for line in log_lines():
        assert "RuntimeError: first\nsecond" in line["exception"]


def test_warnings_and_the_exception_that_ends_the_process_are_logged_as_json() -> None:
    code = """
import warnings
from my_service.ops.logging import configure
configure("INFO")
warnings.warn("old")
raise RuntimeError("end")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONPATH": "src"})
    warning, error = [json.loads(line) for line in done.stdout.splitlines()]
    assert "UserWarning: old" in warning["event"]
    assert error["event"] == "uncaught exception"
    assert "RuntimeError: end" in error["exception"]
    assert (done.returncode, done.stderr) == (1, "")


def test_without_stdout_a_program_runs_on_and_no_file_gets_its_lines(tmp_path: Path) -> None:
    code = """
import sys
file = open(sys.argv[1], "w")
assert file.fileno() == 1
from my_service.main import app
import structlog
structlog.get_logger().info("one")
"""
    file = tmp_path / "file"
    command = ["sh", "-c", 'exec "$@" >&-', "sh", sys.executable, "-c", code, str(file)]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, env={"PYTHONPATH": "src"})
    assert (done.returncode, done.stderr, file.read_text()) == (0, "", "")


def test_lines_reach_stdout_while_a_handler_redirects_it(tmp_path: Path) -> None:
    code = """
import contextlib, io, os, sys
import structlog
from my_service.ops.logging import configure
configure("INFO")
buffer = io.StringIO()
for number, target in enumerate((buffer, open(sys.argv[1], "w"))):
    with contextlib.redirect_stdout(target):
        print("of the handler")
        structlog.get_logger().info("of a request", number=number)
        if not (child := os.fork()):
            structlog.get_logger().info("of a child", number=number)
            os._exit(0)
        os.waitpid(child, 0)
assert buffer.getvalue() == "of the handler\\n"
"""
    redirected = tmp_path / "redirected"
    command = [sys.executable, "-c", code, str(redirected)]
    done = subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": "src"})
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    of_each = [("of a request", 0), ("of a child", 0), ("of a request", 1), ("of a child", 1)]
    assert [(line["event"], line.get("number")) for line in lines] == of_each, done.stderr
    assert (redirected.read_text(), done.returncode) == ("of the handler\n", 0)


CAPTURES = """
import logging
import structlog

def test_caplog(caplog):
    from my_service.main import app
    logging.getLogger("library").warning("one")
    assert "one" in caplog.text

def test_capsys(capsys):
    structlog.get_logger().info("one")
    assert "one" in capsys.readouterr().out

def test_capfd(capfd):
    structlog.get_logger().info("one")
    assert "one" in capfd.readouterr().out
"""


@pytest.mark.parametrize("capture", ["no", "sys", "fd"])
def test_a_test_can_capture_lines(tmp_path: Path, capture: str) -> None:
    (tmp_path / "test_captures.py").write_text(CAPTURES)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", f"--capture={capture}", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": str(Path("src").absolute())})
    assert done.returncode == 0, done.stdout


def test_the_log_level_applies_to_every_logger(log_lines: LogLines) -> None:
    configure("WARNING")
    structlog.get_logger().info("quiet")
    logging.getLogger("library").info("quiet")
    logging.getLogger("gunicorn.error").info("quiet")
    assert log_lines() == []


def test_a_terminal_gets_text_logs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    configure("INFO")
    structlog.get_logger().info("hello", name="Ada")
    output = capsys.readouterr().out
    assert "hello" in output
    assert not output.startswith("{")


def test_a_log_line_inside_a_span_names_its_trace(log_lines: LogLines) -> None:
    configure("INFO")
    context = trace.SpanContext(trace_id=0xABC, span_id=0xDEF, is_remote=False)
    with trace.use_span(trace.NonRecordingSpan(context)):
        structlog.get_logger().info("inside")
    (line,) = log_lines()
    assert int(line["trace_id"], 16) == 0xABC
    assert int(line["span_id"], 16) == 0xDEF


class Unshowable:
    def __repr__(self) -> str:
        raise RuntimeError("no")


@pytest.fixture
def only_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep pytest's handlers away, which raise what ours must not."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    monkeypatch.setattr(logging.getLogger(), "addHandler", lambda _handler: None)


class Endless(dict[str, Any]):
    def items(self) -> Any:
        raise RuntimeError("no")


CYCLE: dict[str, Any] = {}
CYCLE["self"] = CYCLE


STANDARD: Any = logging.getLogger("library")
FILTERED = logging.getLogger("filtered")
FILTERED.addFilter(lambda record: record.missing)  # type: ignore[attr-defined]

CALLS: dict[str, Callable[[Any], Any]] = {
    "event": lambda log: log.info("webhook", event="push"),
    "argument": lambda log: log.info("%d", "text"),
    "level": lambda log: log.log("INFO", "text"),
    "nothing": lambda log: log.info(answer=1),
    "exception": lambda log: log.error("failed", exc_info=(1, 2, 3)),
    "names": lambda log: log.info("x", self=1, method="GET", name="y"),
    "awaited": lambda log: asyncio.run(log.ainfo("%d", "text")),
    "awaited event": lambda log: asyncio.run(log.aexception("webhook", event="push")),
    "nothing of the standard library": lambda _: STANDARD.info(msg="text"),
    "names of a record": lambda _: STANDARD.info("text", extra={"name": 1, "args": 2, "message": 3, "msg": 4}),
    "values by name": lambda _: STANDARD.exception("text", answer=1),
    "no mapping": lambda _: STANDARD.error("text", extra=["answer"]),
    "no number": lambda _: STANDARD.log("INFO", "text"),
    "no level of the stack": lambda _: STANDARD.info("text", stacklevel="two"),
    "no exception": lambda _: STANDARD.info("text", exc_info=(1, 2, 3)),
    "adapter": lambda _: logging.LoggerAdapter(STANDARD, {"name": 1, "event": 2}).info("text"),
    "module": lambda _: logging.warning("text", extra={"filename": 1}),
    "filter": lambda _: FILTERED.info("text"),
}


@pytest.mark.usefixtures("only_ours")
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_no_call_of_a_logger_fails_and_its_line_has_our_fields(log_lines: LogLines, call: Callable[[Any], Any]) -> None:
    configure("INFO", {"service": "example"})
    with structlog.contextvars.bound_contextvars(request_id="one"):
        call(structlog.get_logger())
    (line,) = log_lines()
    assert (line["service"], line["request_id"]) == ("example", "one")
    assert {"timestamp", "level"} <= line.keys()


BY_NAME: dict[str, Callable[[Any], Any]] = {
    "message": lambda _: STANDARD.warning(msg="text"),
    "message after the level": lambda _: STANDARD.log(logging.WARNING, msg="text"),
    "level and message": lambda _: STANDARD.log(level=logging.WARNING, msg="text"),
    "of the module": lambda _: logging.log(level=logging.WARNING, msg="text"),
    "of an adapter": lambda _: logging.LoggerAdapter(STANDARD, {}).log(level=logging.WARNING, msg="text"),
    "event": lambda log: log.warning(event="text"),
    "event after the level": lambda log: log.log(logging.WARNING, event="text"),
    "level and event": lambda log: log.log(level=logging.WARNING, event="text"),
    "awaited": lambda log: asyncio.run(log.awarning(event="text")),
}


@pytest.mark.parametrize("call", BY_NAME.values(), ids=BY_NAME)
def test_a_message_by_name_is_the_event(log_lines: LogLines, call: Callable[[Any], Any]) -> None:
    configure("INFO")
    call(structlog.get_logger())
    (line,) = log_lines()
    assert (line["level"], line["event"]) == ("warning", "text")
    assert line.keys() <= {"timestamp", "level", "event", "logger"}


def test_no_value_of_a_call_takes_the_place_of_ours(log_lines: LogLines) -> None:
    configure("INFO", {"service": "example"})
    values = {"level": 2, "service": "billing", "timestamp": "now"}
    structlog.get_logger().info("elevator", **values, event="push")
    structlog.get_logger().bind(**values).info("elevator")
    logging.getLogger("library").info("elevator", extra={**values, "event": "push", "logger": "mine", "name": "mine"})
    lines = log_lines()
    for line in lines:
        assert (line["event"], line["level"], line["service"]) == ("elevator", "info", "example")
        assert line["timestamp"] != "now"
        assert {f"{name}_": value for name, value in values.items()}.items() <= line.items()
    standard = lines[-1]
    assert standard["logger"] == "library"
    assert (standard["event_"], standard["logger_"], standard["name_"]) == ("push", "mine", "mine")


def test_no_value_of_a_call_takes_the_place_of_the_ids_of_request_and_trace(log_lines: LogLines) -> None:
    configure("INFO")
    values = {"request_id": "of Amazon S3", "trace_id": "mine"}
    span = trace.NonRecordingSpan(trace.SpanContext(trace_id=0xABC, span_id=0xDEF, is_remote=False))
    with structlog.contextvars.bound_contextvars(request_id="ours"), trace.use_span(span):
        structlog.get_logger().info("stored", **values)
        logging.getLogger("library").info("stored", extra=values)
    structlog.get_logger().info("stored outside of a request", **values)
    *inside, outside = log_lines()
    for line in inside:
        assert (line["request_id"], int(line["trace_id"], 16)) == ("ours", 0xABC)
        assert (line["request_id_"], line["trace_id_"]) == ("of Amazon S3", "mine")
    assert values.items() <= outside.items()


def test_other_handlers_hear_who_has_called_a_logger_of_the_standard_library() -> None:
    configure("INFO")
    heard = logging.handlers.BufferingHandler(100)
    logger = logging.getLogger("library")
    logger.addHandler(heard)
    try:
        logger.info("first")
        logger.exception("second", extra={"answer": 42})
        logging.LoggerAdapter(logger, {}).info("third")
    finally:
        logger.removeHandler(heard)
    assert {record.funcName for record in heard.buffer} == {
        "test_other_handlers_hear_who_has_called_a_logger_of_the_standard_library"
    }
    assert vars(heard.buffer[1])["answer"] == 42


@pytest.mark.usefixtures("only_ours")
@pytest.mark.parametrize(
    "value",
    [
        {(1, 2): 3, None: 4},
        float("nan"),
        [float("-inf")],
        "\ud800",
        {"\udfff": 1},
        Unshowable(),
        [Unshowable()],
        CYCLE,
        Endless(),
    ],
    ids=type,
)
def test_whatever_is_logged_is_valid_json(log_lines: LogLines, value: Any) -> None:
    configure("INFO")
    structlog.get_logger().info("structlog", value=value)
    logging.getLogger("library").info("logging", extra={"value": value})
    logging.getLogger("library").info("argument %s", value)
    with structlog.contextvars.bound_contextvars(value=value, request_id=value):
        structlog.get_logger().info("bound")
    lines = log_lines()
    assert len(lines) == 4
    for line in lines:
        json.dumps(line, allow_nan=False, ensure_ascii=False).encode()  # no NaN, no half characters


@pytest.mark.usefixtures("only_ours")
def test_a_log_call_with_wrong_arguments_or_a_failing_processor_fails_no_request(log_lines: LogLines) -> None:
    def fail(_logger: Any, _method: str, _event: EventDict) -> EventDict:
        raise RuntimeError("processor")

    configure("INFO")
    logging.getLogger("library").info("%d", "text")
    configure("INFO", processors=[fail])
    with structlog.contextvars.bound_contextvars(request_id="one", password="hunter2", endless=Endless()):
        structlog.get_logger().info("structlog", method="GET")
        logging.getLogger("library").info("logging")
    lines = log_lines()
    assert "hunter2" not in str(lines)
    assert [line["request_id"] for line in lines[1:]] == ["one", "one"]
    assert "%d" in lines[0]["event"]
    assert "TypeError" in lines[0]["logging_error"]
    assert ["processor" in line["logging_error"] for line in lines[1:]] == [True, True]


def test_a_character_outside_the_16_bit_range_stays(log_lines: LogLines) -> None:
    configure("INFO")
    structlog.get_logger().info("\N{SNAKE}")
    assert log_lines()[0]["event"] == "\N{SNAKE}"


@pytest.mark.parametrize("text", ["x" * 40_000, "\n\u2603" * 20_000, '"' * 15_000])
def test_a_long_line_is_cut_in_its_middle(capsys: pytest.CaptureFixture[str], text: str) -> None:
    configure("INFO", {"service": "example"}, limit=15_000)
    structlog.get_logger().info("long", first=text, second=[text], third=3)
    structlog.get_logger().info("many", **{f"key{number}": "x" * 100 for number in range(1000)})
    long, many = capsys.readouterr().out.encode().splitlines()
    assert max(len(long), len(many)) <= 15_000
    assert len(long) > 10_000
    line = json.loads(long)
    assert (line["service"], line["third"]) == ("example", 3)
    assert line["first"].startswith(text[:40])
    assert line["first"].endswith(text[-40:])
    assert "characters are cut here" in line["first"]
    assert json.loads(many)["event"] == "many"


def test_a_line_has_as_many_bytes_as_an_event_of_cloudwatch(capsys: pytest.CaptureFixture[str]) -> None:
    create_app(OpsSettings(environment="test"))
    structlog.get_logger().info("whole", text="x" * 200_000)
    structlog.get_logger().info("cut", text="x" * 300_000)
    create_app(OpsSettings(environment="test", log_limit=15_000))
    structlog.get_logger().info("cut", text="x" * 200_000)
    whole, cut, short = capsys.readouterr().out.splitlines()
    assert len(json.loads(whole)["text"]) == 200_000
    assert 200_000 < len(cut) <= 262_118
    assert 10_000 < len(short) <= 15_000


FORKS = """
import os, threading
from my_service.ops.lines import write_line
threading.Thread(target=lambda: [write_line(b"x" * 300) for _ in iter(int, 1)], daemon=True).start()
for number in range(300):
    if not (child := os.fork()):
        write_line(f"child {number}".encode())
        os._exit(0)
    os.waitpid(child, 0)
os._exit(0)
"""


def test_a_child_can_log_that_is_forked_while_a_thread_logs() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORKS], capture_output=True, text=True, env={"PYTHONPATH": "src"}, timeout=120
    )
    assert [line for line in done.stdout.splitlines() if "child" in line] == [f"child {n}" for n in range(300)]


def test_no_line_is_lost_when_somebody_makes_stdout_non_blocking() -> None:
    code = WRITER.replace("for _ in range(3)", "os.set_blocking(1, False)\nfor _ in range(3)")
    assert read_slowly(code) == 8 * 20


POOL = """
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
if __name__ == "__main__":
    from my_service import job
    from my_service.main import app
    with ProcessPoolExecutor(1, mp_context=get_context({method!r})) as pool:
        assert pool.submit(job.run).result() == 1
"""


@pytest.mark.parametrize("method", ["fork", "forkserver"])
def test_a_child_of_a_process_pool_logs_as_the_service_does(method: str, tmp_path: Path) -> None:
    package = shutil.copytree("src/my_service", tmp_path / "my_service")
    (package / "job.py").write_text(
        "import structlog\n\ndef run() -> int:\n    structlog.get_logger().info('in a child')\n    return 1\n"
    )
    program = tmp_path / "program.py"
    program.write_text(POOL.format(method=method))
    environment = {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, env=environment, timeout=120)
    (line,) = [json.loads(line) for line in done.stdout.splitlines()]
    assert (line["event"], line["service"]) == ("in a child", "my-service"), done.stderr


WRITER = """
import os
from my_service.ops import lines
from my_service.ops.logging import configure
import structlog
lines.WAIT = 100  # the reader is slow, and no line is lost
configure("INFO")
for _ in range(3):
    os.fork()
for number in range(20):
    structlog.get_logger().info("line", number=number, text="x" * 14_000 if number % 2 else "")
"""


def test_lines_of_processes_that_share_a_pipe_are_whole() -> None:
    assert read_slowly(WRITER) == 8 * 20


def read_slowly(code: str) -> int:
    """Return how many lines a program writes, all of them whole."""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={"PYTHONPATH": "src"}) as process:
        assert process.stdout
        lines = []
        while line := process.stdout.readline():
            lines.append(json.loads(line))
            time.sleep(0.002)  # so that the pipe is full
    return len(lines)


def test_the_services_own_processors_and_handlers_stay(log_lines: LogLines) -> None:
    def hide(_logger: Any, _method: str, event: EventDict) -> EventDict:
        return {name: "hidden" if "hunter2" in str(value) else value for name, value in event.items()}

    own = logging.handlers.BufferingHandler(100)
    root = logging.getLogger()
    create_app(OpsSettings(environment="test"), log_processors=[hide])
    root.addHandler(own)
    try:
        configure("INFO", processors=[hide])
        structlog.get_logger().info("structlog", password="hunter2")
        logging.getLogger("uvicorn.error").info("hunter2")
        try:
            raise RuntimeError("hunter2")
        except RuntimeError:
            logging.getLogger("library").exception("failed")
    finally:
        root.removeHandler(own)
    assert "hunter2" not in str(log_lines())
    assert [record.name for record in own.buffer] == ["uvicorn.error", "library"]


def test_of_the_handlers_before_ours_those_stay_that_do_not_write_to_the_log(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = logging.handlers.BufferingHandler(100)
    before = [logging.StreamHandler(sys.stdout), own, logging.StreamHandler(sys.stderr)]
    monkeypatch.setattr(logging.getLogger(), "handlers", before)
    configure("INFO")
    configure("INFO")
    logging.getLogger("library").warning("one")
    captured = capsys.readouterr()
    assert [json.loads(line)["event"] for line in captured.out.splitlines()] == ["one"]
    assert captured.err == ""
    assert [record.msg for record in own.buffer] == ["one"]


@pytest.mark.usefixtures("only_ours")
def test_one_module_alone_can_log_its_debug_lines(capsys: pytest.CaptureFixture[str]) -> None:
    configure("INFO")
    chosen = logging.getLogger("chosen")
    chosen.setLevel("DEBUG")
    try:
        for name in ("chosen", "chosen.part", "other"):
            logging.getLogger(name).debug("standard")
            structlog.get_logger(name).debug("structlog")
            structlog.get_logger(name).log(logging.DEBUG, "by number")
        structlog.get_logger().debug("nobody")
    finally:
        chosen.setLevel(logging.NOTSET)
    events = [json.loads(line)["event"] for line in capsys.readouterr().out.splitlines()]
    assert events == ["standard", "structlog", "by number"] * 2
