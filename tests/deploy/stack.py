"""What CloudFormation does to a stack that is up: what it replaces, and what stands in its own way.

CloudFormation makes everything new before it deletes anything old. A rollback puts the old back before it deletes what
is new. So what one resource alone can have must not pass from an old resource to another one. A resource is replaced
when a property changes that AWS's schemas call create-only; cfn-lint carries these schemas.
"""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from cfnlint.schema import PROVIDER_SCHEMA_MANAGER

from tests.deploy.cloudformation import Loader

Parameters = dict[str, str]
NOTHING = object()  # AWS::NoValue


@dataclass(frozen=True)
class Resource:
    """A resource as it is made: parameters are filled in, and `<Name.Attribute>` refers to another resource."""

    type: str
    properties: dict[str, Any]

    def forwards(self) -> set[str]:
        """Return the target groups that a listener or a rule forwards to."""
        actions = [*self.properties.get("DefaultActions", []), *self.properties.get("Actions", [])]
        groups = [action.get("TargetGroupArn") for action in actions]
        groups += [
            group["TargetGroupArn"]
            for each in actions
            for group in each.get("ForwardConfig", {}).get("TargetGroups", [])
        ]
        return {group for group in groups if group}

    def held(self) -> set[tuple[str, ...]]:
        """Return what no other resource can have as long as this one is there."""
        values = self.properties
        kind = self.type.rpartition("::")[2]
        match kind:
            case "Listener":
                return {("port", values["LoadBalancerArn"], values["Port"])}
            case "ListenerRule":
                return {("priority", values["ListenerArn"], values["Priority"])}
            case "Service":
                return {("name", kind, values["Cluster"], values["ServiceName"])}
            case "ScalableTarget":
                return {("name", kind, values["ResourceId"])}
            case "ScalingPolicy":
                return {("name", kind, values["ScalingTargetId"], values["PolicyName"])}
            case "RecordSet":
                return {("name", kind, values["HostedZoneId"], values["Name"], values["Type"])}
            case (
                "TaskDefinition"
                | "SecurityGroup"
                | "LoadBalancer"
                | "TargetGroup"
                | "Role"
                | "Schedule"
                | "ScheduleGroup"
            ):
                names = {"GroupName", "Name", "RoleName"}  # a family has many revisions
            case _:
                names = {"AlarmName", "LogGroupName", "ManagedPolicyName", "RepositoryName"}
        return {("name", kind, values[name]) for name in names & values.keys()}


Stack = dict[str, Resource]


@cache
def read(template: Path) -> dict[str, Any]:
    """Return what a template says."""
    found: dict[str, Any] = yaml.load(template.read_text(), Loader)
    return found


def make(template: Path, parameters: Parameters) -> Stack:
    """Return the resources that a template makes; without a value, a parameter has its default."""
    text = read(template)
    defaults = {name: str(spec["Default"]) for name, spec in text["Parameters"].items() if "Default" in spec}
    values = defaults | {name: value for name, value in parameters.items() if name in text["Parameters"]}
    conditions = text.get("Conditions", {})

    def evaluate(value: Any) -> Any:
        if isinstance(value, list):
            return [each for each in map(evaluate, value) if each is not NOTHING]
        if not isinstance(value, dict):
            return str(value)  # to CloudFormation, 80 is "80": in the change sets of its own guide, numbers are strings
        if len(value) == 1:
            ((function, content),) = value.items()
            if function in ("Ref", "Condition") or function.startswith("Fn::"):
                return call(function.removeprefix("Fn::"), content)
        found = {name: evaluate(each) for name, each in value.items()}
        return {name: each for name, each in found.items() if each is not NOTHING}

    def call(function: str, content: Any) -> Any:
        match function, content:
            case "Ref", "AWS::NoValue":
                return NOTHING
            case "Ref", name if name in text["Parameters"]:
                several = text["Parameters"][name]["Type"] == "CommaDelimitedList"
                return values[name].split(",") if several else values[name]
            case (("Ref" | "GetAtt"), name):
                return f"<{name}>"
            case "Condition", name:
                return evaluate(conditions[name])
            case "If", [name, then, otherwise]:
                return evaluate(then if evaluate(conditions[name]) else otherwise)
            case "Equals", sides:
                first, second = map(evaluate, sides)
                return first == second
            case "Not", [condition]:
                return not evaluate(condition)
            case "Or", several:
                return any(map(evaluate, several))
            case "And", several:
                return all(map(evaluate, several))
            case "Join", [separator, several]:
                return separator.join(evaluate(several))
            case "Split", [separator, value]:
                return evaluate(value).split(separator)
            case "Select", [index, several]:
                return evaluate(several)[int(index)]
            case "Sub", [pattern, names]:
                known = {name: evaluate(each) for name, each in names.items()}
                return re.sub(r"\$\{(.*?)\}", lambda name: known.get(name[1]) or named(name[1]), pattern)
            case "Sub", pattern:
                return re.sub(r"\$\{(.*?)\}", lambda name: named(name[1]), pattern)
        raise AssertionError(f"{function} is not known here")

    def named(name: str) -> str:
        return values.get(name, f"<{name}>")

    return {
        name: Resource(spec["Type"], evaluate(spec.get("Properties", {})))
        for name, spec in text["Resources"].items()
        if "Condition" not in spec or evaluate(conditions[spec["Condition"]])
    }


@cache
def create_only(kind: str) -> set[str]:
    """Return the properties whose change makes another resource; the identifier's are among them."""
    schema = PROVIDER_SCHEMA_MANAGER.get_resource_schema("us-east-1", kind).schema
    names = ("createOnlyProperties", "conditionalCreateOnlyProperties", "primaryIdentifier")
    return {path.split("/")[2] for name in names for path in schema.get(name, [])}


def replaced(old: Stack, new: Stack) -> set[str]:
    """Return the resources that are replaced, and with them those that are made of what they were."""
    found: set[str] = set()
    while True:
        after = {name: Resource(each.type, renamed(each.properties, found)) for name, each in new.items()}
        again = {
            name
            for name in old.keys() & new.keys()
            if any(
                old[name].properties.get(key) != after[name].properties.get(key) for key in create_only(new[name].type)
            )
        }
        if again == found:
            return found
        found = again


def renamed(value: Any, names: set[str]) -> Any:
    """Return it with the references to these resources changed: they are other resources now."""
    if isinstance(value, dict):
        return {name: renamed(each, names) for name, each in value.items()}
    if isinstance(value, list):
        return [renamed(each, names) for each in value]
    if isinstance(value, str):
        return re.sub(r"<(\w+)(?=[.>])", lambda name: f"<new {name[1]}" if name[1] in names else name[0], value)
    return value


def problems(old: Stack, new: Stack) -> list[str]:
    """Return what fails, or serves nobody for a while, when a stack becomes another."""
    fresh = replaced(old, new)
    after = {name: Resource(each.type, renamed(each.properties, fresh)) for name, each in new.items()}
    made = {f"<new {name}>" for name in fresh} | {f"<{name}>" for name in new.keys() - old.keys()}
    found = []
    for name, resource in after.items():
        for other in sorted(each for each in after if each > name):
            both = resource.held() & after[other].held()
            found += [f"{name} and {other} have the same {thing[0]}" for thing in both]
        for other, before in old.items():
            if name == other and name not in fresh:
                continue  # it is the same one, changed in place
            found += [
                f"{name} and the old {other} have the same {thing[0]}" for thing in resource.held() & before.held()
            ]
            groups = resource.forwards() & before.forwards()
            if groups and balancer(resource, after) != balancer(before, old):
                found.append(f"{name} and the old {other} need {groups.pop()} for two load balancers")
        if name in old and name not in fresh and old[name].forwards() and resource.forwards() & made:
            found.append(f"{name} forwards to {(resource.forwards() & made).pop()}, which has no task yet")
        if "LoadBalancers" in resource.properties and name in old:
            found += shut_out(old[name], after)
    return sorted(found)


def balancer(resource: Resource, stack: Stack) -> str:
    """Return the load balancer of a listener or of a listener's rule."""
    if "ListenerArn" in resource.properties:
        resource = stack[resource.properties["ListenerArn"].removeprefix("<new ").strip("<>")]
    return str(resource.properties["LoadBalancerArn"])


def shut_out(service: Resource, after: Stack) -> list[str]:
    """Return the security groups that keep requests from the old tasks, which serve until new ones are healthy."""
    (target,) = service.properties["LoadBalancers"]
    network = service.properties["NetworkConfiguration"]["AwsvpcConfiguration"]
    groups = {re.sub(r"^<(\w+).*", r"\1", group) for group in network["SecurityGroups"]}
    rules = {group: after[group].properties["SecurityGroupIngress"] for group in groups & after.keys()}
    port = int(target["ContainerPort"])
    return [
        f"{group} shuts out port {port} of the running tasks"
        for group, ingress in rules.items()
        if not any(int(rule["FromPort"]) <= port <= int(rule["ToPort"]) for rule in ingress)
    ]
