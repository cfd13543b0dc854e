"""Marks of files that are not for submission: rehearsals, development runs, stand-ins, and values to fill in."""

import re

from harness.checking.tree import Findings, Problem, Tree
from harness.descriptions.description import MARK
from harness.rules.rehearsal import NOTICE_FILE, REHEARSAL_PREFIX

_MARKS = re.compile(
    rb"(?i)rehearsal|not[ -]for[ -]submission|random[ -]weights|stand-in"
    rb"|(?<![\w-])null engine|engine[`'\" ]{0,2}[ :=|][ `'\"|]{0,4}null(?![\w-])|- name: null(?![\w-])"
)
_RESULTS = re.compile(r"[^/]+/[^/]+/(?:results|measurements|compliance)/")
_IN_RESULTS = "stand-in"
"""A mark only in the files of a result: notes and documents that a person wrote may contain the word."""
_NULL_FRAMEWORK = re.compile(rb'(?i)"framework"\s{0,9}:\s{0,9}"null(?:[ ,(][^"]{0,200})?"')
_FILL = re.compile(rb"(?<!\w)" + MARK.encode() + rb"(?!\w)")
_CURE = "submit only official runs of real models and data; check a rehearsal with --rehearsal"


def check_marks(tree: Tree, code: tuple[str, ...]) -> Findings[None]:
    """The names and contents of all files outside the folders ``code``."""
    for path, entry in tree.entries.items():
        if any(path == folder or path.startswith(f"{folder}/") for folder in code):
            continue
        name = path.rpartition("/")[2]
        if name == NOTICE_FILE or name.lower().startswith(REHEARSAL_PREFIX):
            yield Problem(path, f"it is not for submission, as its name {name} shows", _CURE, mark=True)
        if entry.kind != "file":
            continue
        content = tree.read(path) or b""
        described = "/systems/" in path and path.endswith(".json")  # check_system reports each field by its name
        found = dict.fromkeys(match[0].decode("ascii").lower() for match in _MARKS.finditer(content))
        if not _RESULTS.match(path):
            found.pop(_IN_RESULTS, None)
        if _NULL_FRAMEWORK.search(content):
            found["null"] = None
        for mark in found:
            yield Problem(path, f"it contains '{mark}'", _CURE, mark=True)
        if not described and _FILL.search(content):
            yield Problem(path, f"it contains '{MARK}'", "replace the placeholder with the actual value")
