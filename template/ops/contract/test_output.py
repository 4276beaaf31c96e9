"""A service writes nothing but lines of JSON to its log, and files to /tmp. Kept by the template."""

from .container import serving


def test_whatever_happens_is_logged_as_json_and_without_secrets() -> None:
    # That every line is one JSON object is checked of each container, in container.py.
    with serving({"LOG_LEVEL": "DEBUG", "DATABASE_PASSWORD": "hunter2", "DRAIN_SECONDS": "0"}) as container:
        assert container.ask("/contract/fail?token=hunter2").status == 500
        container.ask("/nowhere", Authorization="Bearer hunter2")
        assert container.ask("/contract/sleep/long").status == 422
        container.stop()
        exceptions = [line["exception"] for line in container.log() if "exception" in line]
        assert any("RuntimeError: first line\nsecond line" in exception for exception in exceptions)
        assert "hunter2" not in "".join(container.output())


def test_nothing_is_written_but_to_tmp() -> None:
    # As root and on a root that can be written to, so that a write shows; without --init, which adds a file.
    with serving({"DRAIN_SECONDS": "0"}, hardened=False) as container:
        container.stop()
        # The folder /etc alone is Podman's doing; a file there would be named, too.
        changed = [change["Path"] for change in container.docker.diff() or [] if change["Path"] != "/etc"]
        assert not changed, f"Fargate would refuse these writes: {changed}. Write to /tmp"
