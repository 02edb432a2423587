"""Checks a dashboard against Grafana's own schema, by the types that grafana-foundation-sdk generates from it.

Reads the file named by the only argument and prints unknown fields, types and values. The SDK's
from_json() ignores unknown fields and does not check values, so both are checked here.
"""

import enum
import inspect
import json
import sys
import types
import typing

from grafana_foundation_sdk.cog import plugins, runtime
from grafana_foundation_sdk.models.dashboard import Dashboard

problems = []


def check_type(value, hint, where):
    """Returns whether a value, or an object created by from_json(), has the declared type."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint in (typing.Any, object):
        if hasattr(value, "to_json"):
            check_fields(value, where)
        return
    if origin in (typing.Union, types.UnionType):
        others = [one for one in arguments if one is not type(None)]
        possible = [type(value)] if type(value) in others else others
        before = len(problems)
        for one in possible if value is not None else []:
            del problems[before:]
            check_type(value, one, where)
            if len(problems) == before:
                return
        if value is None and type(None) not in arguments:
            problems.append(f"{where} is null")
    elif origin in (list, tuple) and isinstance(value, list):
        for index, element in enumerate(value):
            check_type(element, arguments[0], f"{where}[{index}]")
    elif origin is dict and isinstance(value, dict):
        for key, element in value.items():
            check_type(element, arguments[1], f"{where}.{key}")
    elif origin is typing.Literal:
        if value not in arguments:
            problems.append(f"{where}: {value!r} is not one of {arguments}")
    elif inspect.isclass(hint) and issubclass(hint, enum.Enum):
        if value not in {member.value for member in hint}:
            problems.append(f"{where}: {value!r} is no {hint.__name__}")
    elif inspect.isclass(hint) and hasattr(hint, "from_json") and isinstance(value, dict):
        understood = hint.from_json(value)
        check_known(value, plain(understood), where)
        check_fields(understood, where)
    elif hint is float and isinstance(value, int) and not isinstance(value, bool):
        pass
    elif not isinstance(value, hint if origin is None else origin) or (hint is int and isinstance(value, bool)):
        problems.append(f"{where}: {value!r} is no {hint}")
    elif hasattr(value, "to_json"):
        check_fields(value, where)


def check_fields(thing, where):
    module = vars(sys.modules[type(thing).__module__])
    for name, hint in typing.get_type_hints(type(thing), module).items():
        check_type(getattr(thing, name), hint, f"{where}.{name}")


def plain(thing):
    """Converts an object of the SDK's types to JSON."""
    if hasattr(thing, "to_json"):
        return plain(thing.to_json())
    if isinstance(thing, dict):
        return {key: plain(value) for key, value in thing.items()}
    return [plain(element) for element in thing] if isinstance(thing, list) else thing


def check_known(given, understood, where):
    """Records the given parts that are missing in the result: the types do not know them."""
    if isinstance(given, dict) and isinstance(understood, dict):
        for key, value in given.items():
            if key in understood:
                check_known(value, understood[key], f"{where}.{key}")
            else:
                problems.append(f"{where}.{key} is unknown")
    elif isinstance(given, list) and isinstance(understood, list) and len(given) == len(understood):
        for index, (one, other) in enumerate(zip(given, understood)):
            check_known(one, other, f"{where}[{index}]")
    elif given != understood:
        problems.append(f"{where}: {given!r} is understood as {understood!r}")


plugins.register_default_plugins()
text = open(sys.argv[1]).read()
dashboard = Dashboard.from_json(json.loads(text))
check_known(json.loads(text), plain(dashboard), "dashboard")
check_fields(dashboard, "dashboard")
for panel in dashboard.panels:
    if panel.type_val != "row" and runtime.panelcfg_config(panel.type_val) is None:
        problems.append(f"{panel.title}: there is no panel of type {panel.type_val}")
print("\n".join(problems))
sys.exit(bool(problems))
