"""The rendered checks of the FSD manifest and of the CloudFormation template pass, and each fails on a broken value."""

import copy
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.commands import run
from tests.support.template import PYTHON, Render

GONE = object()  # a field that is not there
ROLE = {"effect": "Allow", "actions": ["s3:GetObject"], "resources": "*"}

# Each field of the manifest with values that must be refused.
MANIFEST: dict[str, list[Any]] = {
    "apiVersion": [GONE, "fsd/v2"],
    "kind": [GONE, "Servce"],
    "metadata": [GONE, "my-service"],
    "metadata.name": [GONE, "my_service", "your-service", "a" * 65],
    "metadata.pack": [GONE, "My Pack", 1],
    "metadata.owner": ["", 1, None],
    "metadata.owners": [[], [""], [1], "@my-pack"],
    "metadata.team": ["my-team"],
    "service": [GONE, []],
    "service.type": [GONE, "eks"],
    "service.port": [GONE, 0, 65536, "8000", 8080],
    "service.image": [1],
    "service.replicas": [2],
    "service.healthCheck": [GONE, "/health"],
    "service.healthCheck.path": [GONE, "health", "/healthz", "/" + "a" * 1024, 1],
    "service.healthCheck.interval": [4, 301, "30"],
    "service.healthCheck.timeout": [1, 121, 30, "5"],
    "service.healthCheck.healthyThreshold": [1, 11],
    "service.healthCheck.unhealthyThreshold": [1, 11, True],
    "service.healthCheck.unhealthyThreshhold": [3],
    "service.resources": [GONE, 1024],
    "service.resources.cpu": [GONE, 1000, 4096, "1024"],
    "service.resources.memory": [GONE, 2000, "2048"],
    "service.resources.desiredCount": [-1, 1, 11],
    "service.resources.minCapacity": [-1, 0, 3],
    "service.resources.maxCapacity": [-1, 1],
    "service.resources.gpu": [1],
    "service.autoScaling": [None],
    "service.autoScaling.minCount": [-1],
    "service.autoScaling.maxCount": [-1],
    "service.autoScaling.targetCPU": [0, 101],
    "service.autoScaling.targetMemory": [0, 101],
    "service.autoScaling.targetCPUUtilization": [0, 170, "70"],
    "service.autoScaling.targetMemoryUtilization": [0, 101],
    "service.autoScaling.scaleInCooldown": [-1, 0.5],
    "service.autoScaling.scaleOutCooldown": [-1],
    "service.autoScaling.targetDisk": [70],
    "service.autoScaling.policies": [{}, [1]],
    "service.autoScaling.policies.0.metric": [GONE],
    "service.autoScaling.schedules": [{}, [1]],
    "service.autoScaling.schedules.0.name": [GONE],
    "service.autoScaling.schedules.0.cron": [GONE],
    "service.environment": [[]],
    "service.environment.1ST": ["1"],
    "service.environment.HOME": ["/"],
    "service.environment.PATH": ["/"],
    "service.environment.USER": ["me"],
    "service.environment.log_level": ["INFO"],
    "service.environment.ENVIRONMENT": ["Staging", GONE],
    "service.environment.SERVICE_NAME": ["your-service", GONE],
    "service.environment.LOG_LEVEL": ["loud", True],
    "service.environment.WEB_CONCURRENCY": [1, "17"],
    "service.environment.TRUSTED_HOPS": ["0"],
    "service.secrets": [{}, [1]],
    "service.secrets.0.name": [GONE, "1ST", "LOG_LEVEL", 1],
    "service.secrets.0.valueFrom": [GONE, "prod/database", 1],
    "service.secrets.0.value": ["a"],
    "service.networking": [True],
    "service.networking.vpc": ["yes"],
    "service.networking.subnets": [[]],
    "service.networking.loadBalancer": [True],
    "service.networking.loadBalancer.type": ["network"],
    "service.networking.loadBalancer.internal": ["yes please"],
    "service.networking.loadBalancer.certificateArn": ["certificate", 1],
    "service.networking.loadBalancer.port": [443],
    "service.observability": [[]],
    "service.observability.alarms": [{}],
    "service.observability.logs": [True],
    "service.observability.logs.enabled": [1],
    "service.observability.logs.retention": [31, "30", True],
    "service.observability.logs.days": [30],
    "service.observability.metrics": [True],
    "service.observability.metrics.enabled": [1],
    "service.observability.metrics.port": [0, 65536, "9000"],
    "service.observability.metrics.path": ["metrics", 1],
    "service.observability.metrics.interval": [30],
    "service.observability.traces": [True],
    "service.observability.traces.enabled": [1],
    "service.observability.traces.otlpEndpoint": ["collector:4317", 1],
    "service.observability.traces.rate": [1],
    "service.taskRole": [[]],
    "service.taskRole.statements": [GONE, {}, [1]],
    "service.taskRole.statements.0.effect": [GONE, "allow"],
    "service.taskRole.statements.0.actions": [GONE, "s3:GetObject", [1]],
    "service.taskRole.statements.0.resources": [GONE],
    "service.taskRole.policies": [[]],
    "service.executionRole": [[]],
    "service.executionRole.statements": [GONE],
    "service.securityGroups": [{}, [1]],
    "service.securityGroups.0.name": [GONE],
    "service.ephemeralStorage": [20, 201, "21"],
    "service.enableExecuteCommand": ["yes"],
    "service.volumes": [{}, [1]],
    "service.volumes.0.name": [GONE],
    "service.volumes.0.mountPath": [GONE],
    "dependencies": [{}, [1]],
    "dependencies.0.type": [GONE],
    "version": [1],
}

KAFKA_MANIFEST: dict[str, list[Any]] = {
    "service.environment.USE_MSK_IAM": ["false", GONE],
    "dependencies": [GONE, []],
    "dependencies.0.type": [GONE, "aws_msk"],
    "dependencies.0.name": [GONE, "", 1],
    "dependencies.0.permissions": [GONE, [], [1], ["kafka:AlterGroup"], ["kafka-cluster:Connect"]],
    "dependencies.0.permisions": [[]],
}

# What stands where the manifest has nothing, so that one mistake at a time can be made in it.
USED: dict[str, Any] = {
    "service.autoScaling.policies": [{"metric": "requests", "target": 100}],
    "service.autoScaling.schedules": [{"name": "night", "cron": "0 22 * * *", "minCount": 1}],
    "service.secrets": [{"name": "TOKEN", "valueFrom": f"arn:aws:secretsmanager:eu-west-1:{'1' * 12}:secret:a-b"}],
    "service.observability.metrics": {"enabled": True, "port": 9000, "path": "/metrics"},
    "service.observability.traces": {"enabled": True, "otlpEndpoint": "http://collector:4317"},
    "service.taskRole": {"statements": [ROLE]},
    "service.executionRole": {"statements": [ROLE]},
    "service.securityGroups": [{"name": "database", "ingress": []}],
    "service.volumes": [{"name": "data", "mountPath": "/data", "efs": {}}],
}


CLOUDFORMATION = [
    ('Cpu: "1024"', 'Cpu: "1000"'),
    ('Memory: "2048"', 'Memory: "512"'),
    ('User: "1000:1000"', "User: root"),
    ("Privileged: false", "Privileged: true"),
    ("ReadonlyRootFilesystem: true", "ReadonlyRootFilesystem: false"),
    ("Drop: [ALL]", "Drop: [CHOWN]"),
    ("Default: DISABLED", "Default: ENABLED"),
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
    ("FromPort: 1024", "FromPort: 8001"),
    ("ToPort: 65535", "ToPort: 8000"),
    ("TargetType: ip", "TargetType: instance"),
    ("HealthCheckPath: /health", "HealthCheckPath: /"),
    ("HealthCheckTimeoutSeconds: 5", "HealthCheckTimeoutSeconds: 30"),
    ("DeploymentCircuitBreaker:\n          Enable: true", "DeploymentCircuitBreaker:\n          Enable: false"),
    ("MinimumHealthyPercent: 100", "MinimumHealthyPercent: 50"),
    ("MaximumPercent: 200", "MaximumPercent: 100"),
    ("After: !If [OwnLoadBalancer,", "After: !If [Encrypted,"),
    ("Default: 2\n", "Default: 11\n"),
    ("Value: !Ref Environment\n            - Name: SERVICE_NAME", "Value: staging\n            - Name: SERVICE_NAME"),
    ("Value: INFO", "Value: loud"),
    ('Value: "1"\n', 'Value: "65"\n'),
    ('AllowedPattern: "[a-z][a-z0-9-]{0,15}"', "AllowedPattern: stage|prod"),
    ("AlarmNames: [!Ref ErrorsAlarm, ", "AlarmNames: ["),
    ("Secrets: []", "Secrets: [{Name: LOG_LEVEL, ValueFrom: !Sub '${SecretArn}:LOG_LEVEL::'}]"),
    ("Secrets: []", "Secrets: [{Name: DATABASE_URL, ValueFrom: prod/database}]"),
]

KAFKA_CLOUDFORMATION = [
    ('USE_MSK_IAM\n              Value: "true"', 'USE_MSK_IAM\n              Value: "false"'),
    ("Value: !Ref KafkaBrokers", "Value: kafka"),
    ("Action: kafka-cluster:Connect", "Action: kafka-cluster:ReadData"),
    ("                  - kafka-cluster:DescribeTopic\n", ""),
    ("                  - kafka-cluster:AlterGroup\n", ""),
    ("${Groups}/my-service-${Environment}", "${Groups}/your-service-${Environment}"),
]


# Runs a test with each text of stdin in place of a file; its last line is what each run printed, or "" for all passed.
# A fork for each, of a process that has run a test and whose objects no garbage collector visits: that takes the time.
EACH = """
import gc, json, os, pathlib, sys, tempfile
sys.path.insert(0, "src")
import fastapi.testclient, my_service.main, pytest, yaml

def run(test):
    return pytest.main(["-o", "addopts=", "-W", "ignore:Module already imported", f"ops/checks/{test}"])

test, file = sys.argv[1:]
assert run("test_settings.py") == 0
gc.freeze()
said = []
for text in json.load(sys.stdin):
    pathlib.Path(file).write_text(text)
    with tempfile.TemporaryFile("w+") as output:
        child = os.fork()
        if not child:
            os.dup2(output.fileno(), 1)
            os._exit(run(test))
        failed = os.waitpid(child, 0)[1]
        output.seek(0)
        said.append(output.read() if failed else "")
print(json.dumps(said))
"""


def failures(repository: Path, test: str, file: str, texts: list[str]) -> list[str]:
    """Return what a rendered test says of each of these texts of a file; it must accept the file as it is."""
    run("uv", "sync", "--quiet", "--python", sys.executable, cwd=repository)
    done = subprocess.run(
        [".venv/bin/python", "-c", EACH, test, file],
        cwd=repository,
        input=json.dumps([(repository / file).read_text(), *texts]),
        text=True,
        stdout=subprocess.PIPE,
        check=True,
    )
    unchanged, *said = json.loads(done.stdout.splitlines()[-1])
    assert unchanged == ""
    return list(said)


def put(manifest: Any, field: str, value: Any) -> Any:
    """Return the manifest with another value of a field."""
    changed = place = copy.deepcopy(manifest)
    *path, last = [int(name) if name.isdecimal() else name for name in field.split(".")]
    for name in path:
        place = place[name]
    if value is GONE:
        del place[last]
    else:
        place[last] = value
    return changed


def names(said: str, field: str) -> bool:
    """Return whether a reason, or the failing line of a test, names the field."""
    last = rf"\b{field.split('.')[-1]}\b"
    return bool(re.search(rf"^({re.escape(field)}\b|{last}|[>E].*{last})", said, re.MULTILINE | re.IGNORECASE))


@pytest.mark.parametrize(("kafka", "mistakes"), [(False, MANIFEST), (True, KAFKA_MANIFEST)])
def test_the_rendered_check_of_the_manifest_names_the_field_of_each_mistake(
    render: Render, kafka: bool, mistakes: dict[str, list[Any]]
) -> None:
    repository = render(kafka=kafka, python_version=PYTHON)
    manifest = yaml.safe_load((repository / "my-service.yml").read_text())
    for field, value in USED.items():
        manifest = put(manifest, field, value)
    manifest["dependencies"].append({"type": "aws_s3_bucket", "name": "files"})
    (repository / "my-service.yml").write_text(yaml.safe_dump(manifest))
    changes = [(field, value) for field, values in mistakes.items() for value in values]
    texts = [yaml.safe_dump(put(manifest, field, value)) for field, value in changes]
    # Another cluster than Amazon MSK.
    other = put(manifest, "dependencies", manifest["dependencies"][-1:])
    other["service"]["environment"] |= {"USE_MSK_IAM": "false", "KAFKA_BROKERS": "k:9093", "KAFKA_USER": "ada"}
    *said, accepted = failures(repository, "test_manifest.py", "my-service.yml", [*texts, yaml.safe_dump(other)])
    assert accepted == "" or not kafka
    assert [change for change, output in zip(changes, said, strict=True) if not names(output, change[0])] == []


@pytest.mark.parametrize(("kafka", "changes"), [(False, CLOUDFORMATION), (True, KAFKA_CLOUDFORMATION)])
def test_the_rendered_check_of_cloudformation_fails_on_each_broken_value(
    render: Render, kafka: bool, changes: list[tuple[str, str]]
) -> None:
    repository = render(deploy="cloudformation", kafka=kafka, python_version=PYTHON)
    text = (repository / "deploy/service.yml").read_text()
    assert [value for value, _ in changes if text.count(value) != 1] == [], "these are not one place"
    texts = [text.replace(value, broken) for value, broken in changes]
    other = text.replace('USE_MSK_IAM\n              Value: "true"', "KAFKA_USER\n              Value: ada")
    *said, accepted = failures(repository, "test_cloudformation.py", "deploy/service.yml", [*texts, other])
    assert accepted == ""
    assert [change for change, output in zip(changes, said, strict=True) if not output] == []
