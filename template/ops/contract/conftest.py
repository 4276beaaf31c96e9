"""What the contract tests share. Kept by the template."""

import pytest

from .container import IMAGE, started


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the figures that tests have recorded."""
    for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed"):
        for name, figure in report.user_properties:
            terminalreporter.write_line(f"contract: {name} {figure}")


@pytest.fixture(scope="session", autouse=True)
def it_starts() -> None:
    """End at once if the service does not start: each test would only wait for it."""
    with started(IMAGE) as container:
        try:
            container.wait_until_serving()
        except AssertionError as error:
            end = "".join(container.output()).splitlines()[-20:]
            reason = f"The service does not start: {error}. The end of its log:"
            place = "Give it what it needs as the service `api` in compose.override.yaml: `environment`, `depends_on`."
            pytest.exit("\n".join([reason, *end, place]), returncode=1)
