"""AWS's API by the command `aws`, and where an environment is. Kept by the template."""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from answers import REGION, SERVICE, WORKER

ROOT = Path(__file__).resolve().parents[2]
RETRIES = {"AWS_RETRY_MODE": "standard", "AWS_MAX_ATTEMPTS": "8"}  # of throttled calls, by aws itself
# What an error message holds, and what solves it.
SOLVED = {
    "(?i)expired": "The AWS credentials have expired: log in again.",
    "Unable to locate credentials": "aws has no credentials: log in, or set AWS_PROFILE.",
    "UnrecognizedClient|InvalidClientToken": "AWS does not know these credentials: log in again.",
    "Throttl|TooManyRequests": "AWS takes no more calls now (throttling): try again in a minute.",
}


class AwsError(Exception):
    """What AWS says in place of an answer, in one line; `code` is AWS's name for it."""

    def __init__(self, text: str, code: str = "") -> None:
        super().__init__(text)
        self.code = code


def call(api: str, operation: str, /, **parameters: Any) -> Any:
    """Call AWS and return its answer."""
    command = ["aws", api, operation, "--region", REGION, "--output", "json"]
    command += ["--cli-input-json", json.dumps(parameters)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=RETRIES | os.environ)
    except FileNotFoundError:
        raise AwsError("aws is not installed.") from None
    if done.returncode == 0:
        return json.loads(done.stdout or "null")
    said = " ".join(done.stderr.split())
    found = re.search(r"\((\w+)\) when calling the (\w+) operation[^:]*: (.*)", said)
    text = f"{api}:{found[2]}: {found[3]} ({found[1]})" if found else said
    text = next((solution for pattern, solution in SOLVED.items() if re.search(pattern, said)), text)
    raise AwsError(text, found[1] if found else "")


def moment(value: str | float) -> datetime:
    """Return a time of an answer; aws 1 prints seconds, aws 2 a date."""
    return datetime.fromtimestamp(value, UTC) if isinstance(value, float | int) else datetime.fromisoformat(value)


@dataclass
class Place:
    """Where an environment is."""

    environment: str
    cluster: str
    service: str
    parameters: dict[str, str]

    def worker(self) -> "Place | None":
        """Return where the worker of the environment runs, if it has one."""
        name = self.parameters.get("WorkerServiceName") or (f"{self.service}-worker" if WORKER else "")
        return replace(self, service=name, parameters={}) if name else None


def find_place(environment: str, command: str) -> Place:
    """Read `deploy/ENV.parameters`; ECS_CLUSTER and ECS_SERVICE of the shell come first. By FSD, no cluster may be known."""
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,15}", environment):
        sys.exit(f"ENV is 1 to 16 characters of a-z, 0-9 and -, a letter first: make {command} ENV=stage")
    file = f"deploy/{environment}.parameters"
    lines = (ROOT / file).read_text().splitlines() if (ROOT / file).exists() else []
    pairs = [line.partition("=") for line in lines if "=" in line and not line.startswith("#")]
    parameters = {name.strip(): value.strip() for name, _, value in pairs}
    cluster = os.environ.get("ECS_CLUSTER") or parameters.get("ClusterName", "")
    service = os.environ.get("ECS_SERVICE") or parameters.get("ServiceName") or f"{SERVICE}-{environment}"
    return Place(environment, cluster, service, parameters)
