"""systems/<system>.json."""

import json
from collections.abc import Mapping

from harness.checking.tree import Findings, Problem, Tree, printable, read_object, required_text, writable
from harness.descriptions.description import (
    FIELDS,
    MAY_BE_EMPTY,
    STATUSES,
    WHOLE,
    breaks_table,
    count_text,
    is_count,
    marked,
)
from harness.rules.rounds import SYSTEM_TYPES

TEXT = (
    "division",
    "submitter",
    "status",
    "system_type",
    "system_name",
    "host_processor_model_name",
    "accelerator_model_name",
    "framework",
    "operating_system",
    "hw_notes",
    "sw_notes",
)
"""Strings: both official checkers join them to other strings. All other fields may also be numbers."""
EXPORTED = (*TEXT, "host_processor_core_count")
"""The fields that the official checkers write to the table of all results, except those in `WHOLE`."""


def system_path(package: str, system: str) -> str:
    """The path of a system description, which is the same in all layouts."""
    return f"{package}/systems/{system}.json"


def check_system(tree: Tree, package: str, system: str) -> Findings[dict[str, object] | None]:
    """A system description; returns its values, None if it cannot be read."""
    path = system_path(package, system)
    values = yield from read_object(tree, path, "write the system description, or package it again")
    if values is None:
        return None
    yield from _fields(path, values)
    yield from writable(path, values)
    yield from _counts(path, values)
    yield from _unfilled(path, values)
    yield from _choices(path, values, package)
    yield from exportable(path, {key: values.get(key) for key in EXPORTED})
    core_count = values.get("host_processor_core_count")
    if (
        isinstance(core_count, str) and "," in core_count
    ):  # the older official checker writes it without quotation marks
        what = f"host_processor_core_count contains a comma ({printable(core_count)}), which breaks summary.csv"
        yield Problem(path, what, "use a semicolon instead of the comma")
    return values


def _fields(path: str, values: Mapping[str, object]) -> Findings[None]:
    """All fields must exist, and those that are not optional must have a value."""
    yield from required_text(path, values, (key for key in TEXT if key not in MAY_BE_EMPTY))
    for key in FIELDS:
        value = values.get(key)
        if key not in values:
            if key in MAY_BE_EMPTY:
                yield Problem(path, f"the field {key} is missing", "add it; it may be empty")
            elif key not in TEXT:
                yield Problem(path, f"the field {key} is missing", "add it")
        elif key in TEXT and key in MAY_BE_EMPTY and not isinstance(value, str):
            yield Problem(path, f"{key} is not a string", 'write it in quotation marks; it may be ""')
        elif key not in (*TEXT, *MAY_BE_EMPTY, *WHOLE) and not (value.strip() if isinstance(value, str) else value):
            what = f"{key} is {'empty' if isinstance(value, str) else json.dumps(value)}"
            yield Problem(path, what, 'fill it in, with "N/A" if nothing applies, or "0" in quotation marks')


def exportable(path: str, values: Mapping[str, object]) -> Findings[None]:
    """Strings must not break summary.csv, in which the official checkers put them in quotation marks unchanged."""
    for key, value in values.items():
        if isinstance(value, str) and breaks_table(value):
            what = f"{printable(key)} contains a quotation mark that breaks summary.csv ({printable(value, 60)})"
            yield Problem(path, what, 'remove the character "')


def _counts(path: str, values: Mapping[str, object]) -> Findings[None]:
    for key, minimum in WHOLE.items():
        value = values.get(key)
        if value == 0 and not isinstance(value, bool | str) and minimum == 0:
            what = f"{key} is the number 0, which the official checkers take for empty"
            yield Problem(path, what, f'write "0" in quotation marks: "{key}": "0"')
        elif key in values and not is_count(key, count_text(value)):
            what = f"{key} is {printable(value)}, not a whole number of at least {minimum}"
            yield Problem(path, what, f'write "{minimum}" or more, and details in hw_notes')


def _unfilled(path: str, values: Mapping[str, object]) -> Findings[None]:
    for key, value in values.items():
        if marked(value):
            yield Problem(
                path, f"{printable(key)} is not filled in yet", "replace the placeholder with the actual value"
            )


def _choices(path: str, values: Mapping[str, object], package: str) -> Findings[None]:
    division, _, submitter = package.partition("/")
    expected = {"division": (division,), "status": STATUSES, "system_type": SYSTEM_TYPES}
    for key, choices in expected.items():
        value = values.get(key)
        if isinstance(value, str) and (value.lower() if key == "status" else value) not in choices:
            yield Problem(path, f"{key} is {printable(value)}", f"write {' or '.join(choices)}")
    named = values.get("submitter")
    if isinstance(named, str) and named.lower() != submitter.lower():
        yield Problem(
            path, f"submitter is {printable(named)}, but the folder is {printable(submitter)}", "use the same name"
        )
    if values.get("is_network", "") != "":
        yield Problem(path, "is_network is set, but this project does not measure over a network", "remove the field")
