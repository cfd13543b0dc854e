"""The system description, systems/<system>.json: facts read from the machine, and fields that a person must fill in.

Facts that Linux shows without root come from /proc and /sys, the rest from psutil. A field that the machine does not
show gets a placeholder that starts with "FILL IN" and describes the value. A value that a person wrote is never
replaced.
"""

import csv
import io
import json
import platform
import re
import shlex
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from harness.errors import ConfigError, did_you_mean
from harness.files.disk import read_input, write_text
from harness.host.hardware import describe_hardware
from harness.host.machine import default_system_name, package_version
from harness.machines.hosts import Hosts
from harness.paths import ROOT
from harness.rules.rounds import DIVISIONS, SYSTEM_TYPES

FIELDS = (
    "division",
    "submitter",
    "status",
    "system_name",
    "number_of_nodes",
    "host_processor_model_name",
    "host_processors_per_node",
    "host_processor_core_count",
    "host_memory_capacity",
    "host_storage_capacity",
    "host_storage_type",
    "accelerators_per_node",
    "accelerator_model_name",
    "accelerator_memory_capacity",
    "framework",
    "operating_system",
    "system_type",
    "other_software_stack",
    "host_processor_frequency",
    "host_processor_caches",
    "host_memory_configuration",
    "host_processor_interconnect",
    "host_networking",
    "host_networking_topology",
    "accelerator_frequency",
    "accelerator_host_interconnect",
    "accelerator_interconnect",
    "accelerator_interconnect_topology",
    "accelerator_memory_configuration",
    "accelerator_on-chip_memories",
    "cooling",
    "hw_notes",
    "sw_notes",
    "host_network_card_count",
    "system_type_detail",
)
"""All fields, in the order of the official checker."""
MAY_BE_EMPTY = frozenset(
    {
        "system_type_detail",
        "host_processor_frequency",
        "host_processor_caches",
        "host_processor_interconnect",
        "accelerator_frequency",
        "accelerator_interconnect_topology",
        "accelerator_on-chip_memories",
        "hw_notes",
        "sw_notes",
    }
)
REQUIRED = tuple(field for field in FIELDS if field not in MAY_BE_EMPTY)
"""The fields that must not be empty."""
STATUSES = ("available", "preview", "rdi")
CHOICES = {"division": DIVISIONS, "status": STATUSES, "system_type": SYSTEM_TYPES}
WHOLE = {"number_of_nodes": 1, "accelerators_per_node": 0, "host_processors_per_node": 1}
"""Whole numbers, with their minimum: an official checker multiplies them, or the final report reads them."""

MARK = "FILL IN"
"""The start of a value that a person must replace."""
WANTED = {
    "division": "closed or open",
    "submitter": "the organisation, as in its folder's name",
    "status": "available, preview or rdi",
    "system_type": "edge, datacenter, or datacenter,edge",
    "system_name": "such as Dell PowerEdge R760 (2x Intel Xeon Gold 6430)",
    "number_of_nodes": "a whole number, such as 1",
    "accelerators_per_node": "a whole number, 0 for none",
    "host_processor_model_name": "such as Intel(R) Xeon(R) Gold 6430",
    "host_processors_per_node": "the number of sockets, such as 2",
    "host_processor_core_count": "cores of one processor, such as 32",
    "host_memory_capacity": "such as 512 GB",
    "host_memory_configuration": "such as 8x 64 GB DDR5-4800",
    "host_storage_capacity": "such as 960 GB",
    "host_storage_type": "such as NVMe SSD",
    "host_networking": "such as 25 GbE",
    "host_network_card_count": "such as 1",
    "host_networking_topology": "such as N/A (one node), or one link to a switch",
    "cooling": "such as air",
    "framework": "such as ONNX Runtime 1.22.0",
    "operating_system": "such as Ubuntu 24.04",
}
_FROM_MACHINE = frozenset(
    {field for field in FIELDS if field.startswith("host_")} | {"framework", "operating_system", "other_software_stack"}
)
"""The fields in which a person's value can contradict the machine."""
_NO_ACCELERATOR = {
    "accelerators_per_node": "0",  # as text: the number 0 counts as empty
    "accelerator_model_name": "N/A",
    "accelerator_memory_capacity": "N/A",
    "accelerator_memory_configuration": "N/A",
    "accelerator_host_interconnect": "N/A",
    "accelerator_interconnect": "N/A",
}
FRAMEWORKS = {"deepsparse": "DeepSparse", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
_STACK = {"mlcommons_loadgen": "LoadGen", "numpy": "NumPy", "tokenizers": "tokenizers", "pillow": "Pillow"}


def read_system(path: Path) -> dict[str, Any]:
    """The system description in a file.

    Raises:
        ConfigError: it does not exist, or is not a JSON object.
    """
    try:
        values = json.loads(read_input(path, "system description"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"{path} is not JSON ({error}): fix it, or remove it and run `{init_command(path)}`."
        ) from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} is not a JSON object: remove it and run `{init_command(path)}`.")
    return values


def init_command(path: Path) -> str:
    """The command that writes a system description to that file."""
    folder = path.absolute().parent
    elsewhere = f" --systems-dir {shlex.quote(str(folder))}" if folder != ROOT / "systems" else ""
    return f"harness system init --system {shlex.quote(path.stem)}{elsewhere}"


def unfilled(values: Mapping[str, Any]) -> list[str]:
    """The fields that still lack a value that both official checkers accept, in the order of `FIELDS`."""
    return [field for field in FIELDS if field not in values or not _is_filled(field, values[field])]


def system_type_of(path: Path) -> str:
    """The system type in a description; "edge" by default."""
    value = read_system(path).get("system_type") if path.is_file() else None
    return value if value in SYSTEM_TYPES else "edge"


def _is_filled(field: str, value: Any) -> bool:
    if marked(value):
        return False
    if field in WHOLE:
        return bool(value) and is_count(field, count_text(value))
    if field in CHOICES:
        return (str(value).lower() if field == "status" else value) in CHOICES[field]
    return field in MAY_BE_EMPTY or bool(value)


def marked(value: Any) -> bool:
    """Whether a value is still to be filled in."""
    return isinstance(value, str) and value.lstrip().upper().startswith(MARK)


def count_text(value: object) -> str:
    """A number as text, a whole one without decimals; "" for other values."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    return str(value).removesuffix(".0") if isinstance(value, float) else str(value).strip()


def is_count(field: str, text: str) -> bool:
    """Whether a text is a whole number that a field of `WHOLE` may have."""
    return text.isascii() and text.isdigit() and len(text) < 10 and int(text) >= WHOLE[field]


def _is_absent(field: str, value: Any) -> bool:
    """Whether a value is only a placeholder; any other is a person's, even if no checker accepts it."""
    return not value or marked(value) or (field in WHOLE and str(value).strip().upper() == "N/A")


def init_system(path: Path, given: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    """Write a system description: values of ``given`` first, then those of a person, then those of the machine.

    Returns:
        The values, and a sentence for each difference between the file and the machine.

    Raises:
        ConfigError: a given field is unknown or has a wrong value, or the file cannot be read or written.
    """
    written = read_system(path) if path.exists() else {}
    for field, value in given.items():
        check_value(field, value, written)
    machine = describe_machine()
    kept = {field: value for field, value in written.items() if not _is_absent(field, value)}
    values = {field: given.get(field, kept.get(field, machine[field])) for field in FIELDS}
    values |= {field: given.get(field, value) for field, value in written.items() if field not in values}
    disagree = [
        f"{field} is {json.dumps(values[field], ensure_ascii=False)} in {path}, but this machine reports "
        f"{json.dumps(machine[field], ensure_ascii=False)}."
        for field in FIELDS
        if field in _FROM_MACHINE and field not in given and machine[field] and not marked(machine[field])
        if str(values[field]) != machine[field]
    ]
    write_text(path.resolve(), json.dumps(values, indent=4, ensure_ascii=False) + "\n")  # keeps a symbolic link
    return values, disagree


def machines_of(hosts: Hosts) -> dict[str, str]:
    """The fields that a cluster determines: the number of its machines, including this one, where LoadGen runs.

    If the harness only joins a running cluster, its machines are unknown, and a person must fill in their number.
    """
    if hosts.local:
        return {"number_of_nodes": "1"}
    if not hosts.nodes:
        return {}
    return {"number_of_nodes": str(len(hosts.nodes) + (not any(_is_here(host.address) for host in hosts.nodes)))}


def _is_here(address: str) -> bool:
    """Whether an address is one of this machine's: only those can be bound."""
    try:
        family, _, _, _, place = socket.getaddrinfo(address, 0, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as tried:
            tried.bind(place)
    except OSError:
        return False
    return True


def description_file(folder: Path, system: str | None) -> Path:
    """The file of a system; the default name is that of this machine's processor.

    Raises:
        ConfigError: the name is not valid in results/.
    """
    name = system or default_system_name()
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise ConfigError(f"'{name}' is not a valid system name: use letters, digits, '.', '_' and '-'.")
    return folder / f"{name}.json"


def parse_fields(pairs: Iterable[str]) -> dict[str, str]:
    """The values in FIELD=VALUE texts, by field.

    Raises:
        ConfigError: one does not have that form.
    """
    values = {}
    for pair in pairs:
        field, separator, value = pair.partition("=")
        if not separator or not field.strip():
            raise ConfigError(f"--set {pair}: write FIELD=VALUE, such as --set cooling=air.")
        values[field.strip()] = value.strip()
    return values


def check_value(field: str, value: str, known: Iterable[str] = ()) -> None:
    """Check that a field is one of `FIELDS` or ``known``, and that the value is valid for it.

    Raises:
        ConfigError: the field is unknown, or the value is not valid.
    """
    valid = [*FIELDS, *(name for name in known if name not in FIELDS)]
    if field not in valid:
        raise ConfigError(f"unknown field '{field}' of a system description: {did_you_mean(field, valid)}")
    if field in CHOICES and value not in CHOICES[field]:
        raise ConfigError(f"{field} cannot be '{value}': {did_you_mean(value, CHOICES[field])}")
    if field in WHOLE and not is_count(field, value):
        raise ConfigError(f"{field} cannot be '{value}': give a whole number of at least {WHOLE[field]}.")
    if breaks_table(value):
        raise ConfigError(f"{field} cannot be '{value}': the character \" would break the table of all results.")
    if field in REQUIRED and not value:
        raise ConfigError(f"{field} needs a value: {wanted(field)}.")


def breaks_table(value: str) -> bool:
    """Whether a value would break summary.csv: the official checkers write it in quotation marks, but unchanged.

    >>> breaks_table('19" rack'), breaks_table('Acme "X", 19" rack')
    (False, True)
    """
    try:
        return len(next(csv.reader(io.StringIO(f'"{value}","end"', newline="")))) != 2
    except (csv.Error, StopIteration):
        return True


def wanted(field: str) -> str:
    """A description of a field's value, with an example."""
    return WANTED.get(field, "N/A for none")


def describe_machine(root: Path = Path("/")) -> dict[str, str]:
    """All `FIELDS`, as far as this machine shows their values; ``root`` contains proc, sys and etc."""
    hardware = describe_hardware(root)
    found = {
        **_NO_ACCELERATOR,
        "division": "open",  # `harness package` writes its own
        "number_of_nodes": "1",
        "system_name": hardware.product,
        "host_processor_model_name": hardware.processor,
        "host_processors_per_node": str(hardware.sockets or ""),
        "host_processor_core_count": str(hardware.cores or ""),
        "host_processor_frequency": hardware.frequency,
        "host_processor_caches": hardware.caches,
        "host_memory_capacity": hardware.memory,
        "host_memory_configuration": hardware.memory_modules,
        "host_storage_capacity": hardware.storage,
        "host_storage_type": hardware.storage_kind,
        "host_networking": hardware.network,
        "host_network_card_count": str(hardware.network_cards or ""),
        "framework": _versions(FRAMEWORKS),
        "operating_system": hardware.operating_system,
        "other_software_stack": ", ".join(filter(None, (f"Python {platform.python_version()}", _versions(_STACK)))),
        "hw_notes": "; ".join(filter(None, ("virtual machine" if hardware.virtual else "", hardware.core_kinds))),
    }
    return {field: found.get(field) or (f"{MARK}: {WANTED[field]}" if field in WANTED else "") for field in FIELDS}


def _versions(packages: Mapping[str, str]) -> str:
    found = {words: package_version(name) for name, words in packages.items()}
    return ", ".join(f"{words} {version}" for words, version in found.items() if version)
