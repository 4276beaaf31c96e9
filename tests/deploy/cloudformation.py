"""A stand-in for CloudFormation's API. It makes no resources, and refuses what CloudFormation refuses."""

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

import pytest
import yaml

Query = dict[str, str]
COUNT = r"^Parameters\.member\.(\d+)\.ParameterKey$"


class RefusedError(Exception):
    """What CloudFormation answers with code 400."""


class Loader(yaml.SafeLoader):
    """Reads short tags as CloudFormation does: `!Ref X` is `{"Ref": "X"}`."""


def long_form(loader: yaml.SafeLoader, tag: str, node: yaml.Node) -> Any:
    value: Any
    if isinstance(node, yaml.ScalarNode):
        value = loader.construct_scalar(node)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        assert isinstance(node, yaml.MappingNode)
        value = loader.construct_mapping(node, deep=True)
    return {tag if tag == "Ref" else f"Fn::{tag}": value}


Loader.add_multi_constructor("!", long_form)


def holds(condition: Any, parameters: dict[str, str]) -> bool:
    """Evaluate what the templates' rules are made of."""
    ((function, value),) = condition.items()
    if function == "Fn::Not":
        return not holds(value[0], parameters)
    if function in ("Fn::And", "Fn::Or"):
        return (all if function == "Fn::And" else any)(holds(each, parameters) for each in value)
    assert function == "Fn::Equals"
    first, second = (parameters[each["Ref"]] if isinstance(each, dict) else each for each in value)
    return bool(first == second)


@dataclass
class Stack:
    """A stack; `planned` are the parameters of a change set that has not been executed."""

    status: str
    outputs: dict[str, str] = field(default_factory=dict)
    parameters: dict[str, str] = field(default_factory=dict)
    planned: dict[str, str] = field(default_factory=dict)
    events: list[tuple[str, str, str, str]] = field(default_factory=list)
    role: str = ""
    tags: dict[str, str] = field(default_factory=dict)


@dataclass
class CloudFormation:
    """Stacks by name, and the actions that were called.

    `fails` names a resource that cannot be made, `breaks` makes rollbacks fail, `taken` has another deployment begin.
    """

    stacks: dict[str, Stack] = field(default_factory=dict)
    calls: set[str] = field(default_factory=set)
    fails: str = ""
    breaks: bool = False
    taken: bool = False
    deployed: Callable[[dict[str, str]], None] = lambda parameters: None  # is told of what a stack was made of

    def stack(self, name: str) -> Stack:
        name = name.split("/")[1] if name.startswith("arn:") else name
        if name not in self.stacks:
            raise RefusedError(f"Stack with id {name} does not exist")
        return self.stacks[name]

    def answer(self, query: Query) -> str:
        self.calls.add(query["Action"])
        method = re.sub(r"(?<!^)(?=[A-Z])", "_", query["Action"]).lower()
        result: str = getattr(self, method)(query)
        return result

    def describe_stacks(self, query: Query) -> str:
        stack = self.stack(query["StackName"])
        outputs = "".join(
            f"<member><OutputKey>{key}</OutputKey><OutputValue>{value}</OutputValue></member>"
            for key, value in stack.outputs.items()
        )
        parameters = "".join(
            f"<member><ParameterKey>{key}</ParameterKey><ParameterValue>{value}</ParameterValue></member>"
            for key, value in stack.parameters.items()
        )
        facts = f"<StackName>{query['StackName']}</StackName><StackStatus>{stack.status}</StackStatus>"
        facts += f"<Outputs>{outputs}</Outputs><Parameters>{parameters}</Parameters>"
        return f"<Stacks><member>{facts}</member></Stacks>"

    def get_template_summary(self, query: Query) -> str:
        if "TemplateBody" in query:
            known = yaml.load(query["TemplateBody"], Loader)["Parameters"]
        else:
            known = {name: {} for name in self.stack(query["StackName"]).parameters}
        members = "".join(
            f"<member><ParameterKey>{name}</ParameterKey>"
            + (f"<DefaultValue>{spec['Default']}</DefaultValue>" if "Default" in spec else "")
            + "</member>"
            for name, spec in known.items()
        )
        return f"<Parameters>{members}</Parameters>"

    def create_change_set(self, query: Query) -> str:
        if self.taken:
            self.stack(query["StackName"]).status = "UPDATE_IN_PROGRESS"
        name, creates = query["StackName"], query["ChangeSetType"] == "CREATE"
        status = "REVIEW_IN_PROGRESS" if creates else self.stack(name).status
        if creates == (name in self.stacks):
            raise RefusedError(f"Stack [{name}] already exists and cannot be created again")
        if not re.fullmatch("REVIEW_IN_PROGRESS|(UPDATE_(ROLLBACK_)?|CREATE_)COMPLETE", status):
            raise RefusedError(f"Stack:{name} is in {status} state and can not be updated.")
        template = yaml.load(query["TemplateBody"], Loader)
        types = {resource["Type"] for resource in template["Resources"].values()}
        if "AWS::IAM::Role" in types and "CAPABILITY_IAM" not in query.values():
            raise RefusedError("Requires capabilities : [CAPABILITY_IAM]")
        old = {} if creates else self.stack(name).parameters
        planned = self.check(template, query, old)
        stack = self.stacks.setdefault(name, Stack(status))
        stack.planned, stack.role = planned, query.get("RoleARN", stack.role)
        keys = [name for name in query if re.fullmatch(r"Tags\.member\.\d+\.Key", name)]
        stack.tags = {query[name]: query[f"{name.removesuffix('Key')}Value"] for name in keys}
        return f"<Id>arn:aws:cloudformation:us-east-1:1:changeSet/x/1</Id><StackId>{name}</StackId>"

    def check(self, template: dict[str, Any], query: Query, old: dict[str, str]) -> dict[str, str]:
        """Return the parameters' values, which fit the template."""
        known = template["Parameters"]
        given = {}
        for key in query:
            if match := re.match(COUNT, key):
                prefix = f"Parameters.member.{match[1]}"
                kept = query.get(f"{prefix}.UsePreviousValue") == "true"
                given[query[key]] = old[query[key]] if kept else query[f"{prefix}.ParameterValue"]
        if unknown := given.keys() - known:
            raise RefusedError(f"Parameters: {sorted(unknown)} do not exist in the template")
        values = {name: str(spec["Default"]) for name, spec in known.items() if "Default" in spec} | given
        if missing := known.keys() - values:
            raise RefusedError(f"Parameters: {sorted(missing)} must have values")
        for name, spec in known.items():
            several = spec["Type"] == "CommaDelimitedList"
            for value in values[name].split(",") if several else [values[name]]:
                if not re.fullmatch(spec.get("AllowedPattern", ".*"), value):
                    raise RefusedError(f"Parameter {name} failed to satisfy constraint: {spec.get('AllowedPattern')}")
        for rule in template.get("Rules", {}).values():
            if holds(rule["RuleCondition"], values):
                for assertion in rule["Assertions"]:
                    if not holds(assertion["Assert"], values):
                        raise RefusedError(assertion["AssertDescription"])
        return values

    def describe_change_set(self, query: Query) -> str:
        stack = self.stack(query["StackName"])
        if stack.planned == stack.parameters and not self.fails:
            return (
                "<Status>FAILED</Status><StatusReason>The submitted information didn't contain changes.</StatusReason>"
            )
        return "<Status>CREATE_COMPLETE</Status>"

    def execute_change_set(self, query: Query) -> str:
        stack = self.stack(query["StackName"])
        action = "CREATE" if stack.status == "REVIEW_IN_PROGRESS" else "UPDATE"
        if self.breaks:
            stack.events.append(("2099-01-01T00:00:00Z", "Listener", "UPDATE_FAILED", "A listener exists on this port"))
            stack.status = "UPDATE_ROLLBACK_FAILED"
            return ""
        if self.fails:
            reason = f"Resource handler returned message: {self.fails} cannot be made"
            stack.events.append(("2099-01-01T00:00:00Z", self.fails, f"{action}_FAILED", reason))
            stack.status = "ROLLBACK_COMPLETE" if action == "CREATE" else "UPDATE_ROLLBACK_COMPLETE"
            return ""
        stack.status, stack.parameters = f"{action}_COMPLETE", stack.planned
        self.deployed(stack.parameters)
        stack.events.append(("2001-01-01T00:00:00Z", "Old", "CREATE_FAILED", "of long ago"))
        stack.outputs = {"Url": "http://lb.example.com"}
        return ""

    def describe_stack_events(self, query: Query) -> str:
        events = "".join(
            f"<member><Timestamp>{at}</Timestamp><LogicalResourceId>{resource}</LogicalResourceId>"
            f"<ResourceStatus>{status}</ResourceStatus><ResourceStatusReason>{reason}</ResourceStatusReason></member>"
            for at, resource, status, reason in self.stack(query["StackName"]).events
        )
        return f"<StackEvents>{events}</StackEvents>"

    def continue_update_rollback(self, query: Query) -> str:
        stack = self.stack(query["StackName"])
        if self.breaks:
            raise RefusedError("the rollback cannot be continued")
        stack.status = "UPDATE_ROLLBACK_COMPLETE"
        return ""

    def delete_stack(self, query: Query) -> str:
        self.stack(query["StackName"])
        del self.stacks[query["StackName"]]
        return ""


def serve(cloudformation: CloudFormation) -> ThreadingHTTPServer:
    """Return a server on loopback that answers for it; whoever calls this starts and stops it."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            query = {name: values[0] for name, values in parse_qs(body, keep_blank_values=True).items()}
            action = query["Action"]
            try:
                code, text = 200, f"<{action}Result>{cloudformation.answer(query)}</{action}Result>"
            except RefusedError as refused:
                code, text = 400, f"<Error><Code>ValidationError</Code><Message>{refused}</Message></Error>"
            outer = f"{action}Response" if code == 200 else "ErrorResponse"
            self.send_response(code)
            self.end_headers()
            self.wfile.write(f"<{outer}>{text}</{outer}>".encode())

        def log_message(self, format: str, *arguments: object) -> None:
            """Write nothing."""

    return ThreadingHTTPServer(("127.0.0.1", 0), Handler)


@contextmanager
def asked(cloudformation: CloudFormation, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the real AWS CLI ask it."""
    server = serve(cloudformation)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    for credential in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(credential, "testing")
    yield
    server.shutdown()
