"""The rendered checks of the FSD manifest and of the CloudFormation template pass, and each fails on a broken value."""

import json
import subprocess
import sys

import pytest

from tests.support.commands import run
from tests.support.template import PYTHON, Render

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
    ("ENVIRONMENT: ${ENV}", "ENVIRONMENT: Staging"),
    ("SERVICE_NAME: my-service", "SERVICE_NAME: your-service"),
    ("LOG_LEVEL: INFO", "LOG_LEVEL: loud"),
    ('WEB_CONCURRENCY: "1"', "WEB_CONCURRENCY: 1"),
    ('WEB_CONCURRENCY: "1"', 'WEB_CONCURRENCY: "17"'),
    ('TRUSTED_HOPS: "1"', 'TRUSTED_HOPS: "0"'),
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
    ("Default: internal\n", "Default: internet-facing\n"),
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
    ("      Port: 8000\n", "      Port: 80\n"),
    ("FromPort: 8000", "FromPort: 8001"),
    ("TargetType: ip", "TargetType: instance"),
    ("HealthCheckPath: /health", "HealthCheckPath: /"),
    ("HealthCheckTimeoutSeconds: 5", "HealthCheckTimeoutSeconds: 30"),
    ("DeploymentCircuitBreaker:\n          Enable: true", "DeploymentCircuitBreaker:\n          Enable: false"),
    ("MinimumHealthyPercent: 100", "MinimumHealthyPercent: 50"),
    ("MaximumPercent: 200", "MaximumPercent: 100"),
    ("DependsOn: Listener", "DependsOn: TargetGroup"),
    ("Default: 2\n", "Default: 11\n"),
    ("Value: !Ref Environment\n            - Name: SERVICE_NAME", "Value: staging\n            - Name: SERVICE_NAME"),
    ("Value: INFO", "Value: loud"),
    ('Value: "1"\n', 'Value: "65"\n'),
    ('AllowedPattern: "[a-z][a-z0-9-]{0,15}"', "AllowedPattern: stage|prod"),
    ("AlarmNames: [!Ref ErrorsAlarm, ", "AlarmNames: ["),
    ("Secrets: []", "Secrets: [{Name: LOG_LEVEL, ValueFrom: !Sub '${SecretArn}:LOG_LEVEL::'}]"),
    ("Secrets: []", "Secrets: [{Name: DATABASE_URL, ValueFrom: prod/database}]"),
]

KAFKA_MANIFEST = [
    ('USE_MSK_IAM: "true"', 'USE_MSK_IAM: "false"'),
    ("    name: ${ENV}-services\n", ""),
    ("    permissions:\n", "    permisions:\n"),
    ("kafka-cluster:AlterGroup", "kafka:AlterGroup"),
    ("      - kafka-cluster:Connect\n", ""),
    ("      - kafka-cluster:ReadData\n", ""),
]

KAFKA_CLOUDFORMATION = [
    ('USE_MSK_IAM\n              Value: "true"', 'USE_MSK_IAM\n              Value: "false"'),
    ("Value: !Ref KafkaBrokers", "Value: kafka"),
    ("Action: kafka-cluster:Connect", "Action: kafka-cluster:ReadData"),
    ("                  - kafka-cluster:DescribeTopic\n", ""),
    ("                  - kafka-cluster:AlterGroup\n", ""),
    ("${Groups}/my-service-${Environment}", "${Groups}/your-service-${Environment}"),
]


# Runs a test file for each `[file, value, broken]` of stdin, with that value replaced, and prints the exit codes.
# A fork for each, because what takes the time is to import pytest, its plugins and the application.
EACH = """
import contextlib, json, os, pathlib, sys
sys.path.insert(0, "src")
import anyio.pytest_plugin, fastapi.testclient, my_service.main, pytest, pytest_cov.plugin, yaml
with contextlib.suppress(ImportError):
    import jsonschema  # of the manifest's test

def run():
    child = os.fork()
    if not child:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os._exit(pytest.main(["-o", "addopts=", "-W", "ignore:Module already imported", sys.argv[1]]))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

codes = []
for file, value, broken in json.load(sys.stdin):
    text = pathlib.Path(file).read_text()
    pathlib.Path(file).write_text(text.replace(value, broken))
    codes.append(run())
    pathlib.Path(file).write_text(text)
print(json.dumps(codes))
"""


@pytest.mark.parametrize(
    ("deploy", "kafka", "test", "file", "changes"),
    [
        ("fsd", False, "test_manifest.py", "my-service.yml", MANIFEST),
        ("fsd", True, "test_manifest.py", "my-service.yml", KAFKA_MANIFEST),
        ("cloudformation", False, "test_cloudformation.py", "deploy/service.yml", CLOUDFORMATION),
        ("cloudformation", True, "test_cloudformation.py", "deploy/service.yml", KAFKA_CLOUDFORMATION),
    ],
)
def test_the_rendered_checks_pass_and_fail_on_each_broken_value(
    render: Render, deploy: str, kafka: bool, test: str, file: str, changes: list[tuple[str, str]]
) -> None:
    repository = render(deploy=deploy, kafka=kafka, python_version=PYTHON)
    run("uv", "sync", "--quiet", "--python", sys.executable, cwd=repository)
    text = (repository / file).read_text()
    assert [value for value, _ in changes if text.count(value) != 1] == [], "these are not one place"
    todo = [(file, "", ""), *((file, value, broken) for value, broken in changes)]
    done = subprocess.run(
        [".venv/bin/python", "-c", EACH, f"tests/ops/{test}"],
        cwd=repository,
        input=json.dumps(todo),
        text=True,
        capture_output=True,
        check=True,
    )
    passed, *failed = json.loads(done.stdout)
    assert passed == 0
    assert [change for change, code in zip(changes, failed, strict=True) if code != 1] == []
