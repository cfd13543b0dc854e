"""systems/<system>.json."""

from collections.abc import Mapping

from harness.rules.rounds import SYSTEM_TYPES
from harness.submission.description import MARK, MAY_BE_EMPTY, REQUIRED, STATUSES
from harness.submission.tree import Findings, Problem, Tree, number, printable, read_object, required_text, writable

COUNTS = (
    "number_of_nodes",
    "host_processors_per_node",
    "host_processor_core_count",
    "host_network_card_count",
)
"""Numbers, or strings with more details; neither empty nor 0."""
FILLED = tuple(field for field in REQUIRED if field not in COUNTS)
"""Strings that must not be empty."""


def system_path(package: str, system: str) -> str:
    """The path of a system description, which is the same in all layouts."""
    return f"{package}/systems/{system}.json"


def check_system(tree: Tree, package: str, system: str) -> Findings[dict[str, object] | None]:
    """A system description; returns its values, None if it cannot be read."""
    path = system_path(package, system)
    values = yield from read_object(tree, path, "write the system description, or package it again")
    if values is None:
        return None
    yield from required_text(path, values, FILLED)
    yield from writable(path, values)
    yield from _counts(path, values)
    for key in sorted(MAY_BE_EMPTY):
        if key not in values:
            yield Problem(path, f"the field {key} is missing", "add it; it may be empty")
        elif not isinstance(values[key], str):
            yield Problem(path, f"{key} is not a string", 'write it in quotation marks; it may be ""')
    yield from _unfilled(path, values)
    yield from _choices(path, values, package)
    return values


def _counts(path: str, values: Mapping[str, object]) -> Findings[None]:
    for key in COUNTS:
        value = values.get(key)
        if key not in values:
            yield Problem(path, f"the field {key} is missing", "add it")
        elif isinstance(value, str):
            if not value.strip():
                yield Problem(path, f"{key} is empty", "fill it in")
        elif not number(value):
            yield Problem(path, f"{key} is {printable(value)}", "write their number")
    for key, minimum in (("number_of_nodes", 1), ("accelerators_per_node", 0)):
        value = values.get(key)
        text = str(value).strip() if isinstance(value, str | int) else ""
        if key in values and not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) >= minimum):
            yield Problem(
                path,
                f"{key} is {printable(value)}, not a whole number of at least {minimum}",
                f'write "{minimum}" or more',
            )


def _unfilled(path: str, values: Mapping[str, object]) -> Findings[None]:
    for key, value in values.items():
        if isinstance(value, str) and value.lstrip().upper().startswith(MARK):
            yield Problem(
                path, f"{printable(key)} is not filled in yet", "replace the placeholder with the actual value"
            )


def _choices(path: str, values: Mapping[str, object], package: str) -> Findings[None]:
    division, _, submitter = package.partition("/")
    expected = {"division": (division,), "status": STATUSES, "system_type": SYSTEM_TYPES}
    for key, choices in expected.items():
        value = values.get(key)
        if isinstance(value, str) and value not in choices:
            yield Problem(path, f"{key} is {printable(value)}", f"write {' or '.join(choices)}")
    named = values.get("submitter")
    if isinstance(named, str) and named.lower() != submitter.lower():
        yield Problem(
            path, f"submitter is {printable(named)}, but the folder is {printable(submitter)}", "use the same name"
        )
    if "is_network" in values:
        yield Problem(path, "is_network is set, but this project does not measure over a network", "remove the field")
