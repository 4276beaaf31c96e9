"""The rendered checks of the FSD manifest and of the CloudFormation template pass, and each fails on a broken value."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Render
from tests.project import run

MANIFEST = [
    ("apiVersion: fsd/v1", "apiVersion: fsd/v2"),
    ("kind: Service", "kind: Servce"),
    ("  pack: my-pack\n", ""),
    ("  name: my-service", "  name: my_service"),
    ("  name: my-service", "  name: your-service"),
    ("  type: ecs", "  type: eks"),
    ("  port: 8000", "  port: 8080"),
    ("path: /health", "path: health"),
    ("path: /health", "path: /healthz"),
    ("interval: 30", "interval: 4"),
    ("timeout: 5", "timeout: 30"),
    ("timeout: 5", 'timeout: "5"'),
    ("healthyThreshold: 2", "healthyThreshold: 1"),
    ("unhealthyThreshold: 3", "unhealthyThreshhold: 3"),
    ("cpu: 1024", "cpu: 1000"),
    ("cpu: 1024", "cpu: 4096"),
    ("memory: 2048", "memory: 2000"),
    ("desiredCount: 2", "desiredCount: 1"),
    ("minCapacity: 2", "minCapacity: 0"),
    ("maxCapacity: 10", "maxCapacity: 1"),
    ("targetCPUUtilization: 70", "targetCPUUtilization: 170"),
    ("ENVIRONMENT: ${ENV}", "ENVIRONMENT: staging"),
    ("SERVICE_NAME: my-service", "SERVICE_NAME: your-service"),
    ("LOG_LEVEL: INFO", "LOG_LEVEL: loud"),
    ('WEB_CONCURRENCY: "1"', "WEB_CONCURRENCY: 1"),
    ('WEB_CONCURRENCY: "1"', 'WEB_CONCURRENCY: "17"'),
    ("FORWARDED_ALLOW_IPS: 10.0.0.0/8", 'FORWARDED_ALLOW_IPS: "*"'),
    ("secrets: []", "secrets: [{name: DATABASE_URL, valueFrom: prod/database}]"),
    ("internal: true", "internal: yes please"),
    ("retention: 30", "retention: 31"),
]

CLOUDFORMATION = [
    ('Cpu: "1024"', 'Cpu: "1000"'),
    ('Memory: "2048"', 'Memory: "512"'),
    ('User: "1000:1000"', "User: root"),
    ("Privileged: false", "Privileged: true"),
    ("ReadonlyRootFilesystem: true", "ReadonlyRootFilesystem: false"),
    ("Drop: [ALL]", "Drop: [CHOWN]"),
    ("AssignPublicIp: DISABLED", "AssignPublicIp: ENABLED"),
    ("Scheme: internal", "Scheme: internet-facing"),
    ("ops/healthcheck.py]", "ops/health.py]"),
    ("            Interval: 30", "            Interval: 29"),
    ("            Timeout: 3", "            Timeout: 30"),
    ("            Retries: 3", "            Retries: 11"),
    ("            StartPeriod: 30", "            StartPeriod: 301"),
    ("StopTimeout: 30", "StopTimeout: 120"),
    ("- ContainerPort: 8000", "- ContainerPort: 8080"),
    (
        "          ContainerPort: 8000\n          TargetGroupArn",
        "          ContainerPort: 80\n          TargetGroupArn",
    ),
    ("ContainerName: my-service", "ContainerName: app"),
    ("      Port: 8000", "      Port: 80"),
    ("FromPort: 8000", "FromPort: 8001"),
    ("TargetType: ip", "TargetType: instance"),
    ("HealthCheckPath: /health", "HealthCheckPath: /"),
    ("HealthCheckTimeoutSeconds: 5", "HealthCheckTimeoutSeconds: 30"),
    ("Rollback: true", "Rollback: false"),
    ("MinimumHealthyPercent: 100", "MinimumHealthyPercent: 50"),
    ("MaximumPercent: 200", "MaximumPercent: 100"),
    ("DependsOn: Listener", "DependsOn: TargetGroup"),
    ("MinCapacity: 2", "MinCapacity: 11"),
    ("Value: !Ref Environment\n            - Name: SERVICE_NAME", "Value: staging\n            - Name: SERVICE_NAME"),
    ("Value: INFO", "Value: loud"),
    ('Value: "1"\n', 'Value: "65"\n'),
    ("Value: 10.0.0.0/8", 'Value: "*"'),
    ("AllowedValues: [dev, stage, preprod, prod]", "AllowedValues: [stage, prod]"),
]


def repository(render: Render, deploy: str) -> Path:
    """Return a rendered repository for the Python of these tests, with its dependencies."""
    path = render(deploy=deploy, python_version=f"{sys.version_info.major}.{sys.version_info.minor}")
    run("uv", "lock", "--quiet", cwd=path)
    run("uv", "sync", "--quiet", "--python", sys.executable, cwd=path)
    return path


@pytest.fixture(scope="module")
def fsd(render: Render) -> Path:
    return repository(render, "fsd")


@pytest.fixture(scope="module")
def cloudformation(render: Render) -> Path:
    return repository(render, "cloudformation")


def check(path: Path, test: str) -> subprocess.CompletedProcess[str]:
    """Run one file of the repository's own tests."""
    return run(".venv/bin/python", "-m", "pytest", "-q", "-o", "addopts=", f"tests/ops/{test}", cwd=path, check=False)


def check_with(path: Path, test: str, file: str, value: str, broken: str) -> subprocess.CompletedProcess[str]:
    """Run it with a value of a file replaced."""
    text = (path / file).read_text()
    assert text.count(value) == 1, f"{value} is not one place in {file}"
    (path / file).write_text(text.replace(value, broken))
    try:
        return check(path, test)
    finally:
        (path / file).write_text(text)


def test_the_checks_pass_on_what_is_rendered(fsd: Path, cloudformation: Path) -> None:
    for path, test in ((fsd, "test_manifest.py"), (cloudformation, "test_cloudformation.py")):
        done = check(path, test)
        assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(("value", "broken"), MANIFEST)
def test_the_checks_of_the_manifest_fail_on_a_broken_value(fsd: Path, value: str, broken: str) -> None:
    done = check_with(fsd, "test_manifest.py", "my-service.yml", value, broken)
    assert done.returncode == 1, done.stdout


@pytest.mark.parametrize(("value", "broken"), CLOUDFORMATION)
def test_the_checks_of_the_template_fail_on_a_broken_value(cloudformation: Path, value: str, broken: str) -> None:
    done = check_with(cloudformation, "test_cloudformation.py", "deploy/cloudformation.yml", value, broken)
    assert done.returncode == 1, done.stdout
