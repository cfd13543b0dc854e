"""The answers in an accuracy log: whether they can belong to the benchmark whose folder they are in."""

import re

from harness.checking.tree import Findings, Problem, Tree
from harness.rules.rounds import Rules

# Not seq_id: it numbers what LoadGen issued, and MultiStream fills its last query with samples that it issued before.
_INDEX = re.compile(rb'"qsl_idx"\s{0,9}:\s{0,9}(\d{1,18})')
_DATA = re.compile(rb'"data"\s{0,9}:\s{0,9}"([0-9A-Fa-f]*)("?)')
_CURE = "package the accuracy log of this benchmark"


def check_answers(tree: Tree, path: str, rules: Rules | None) -> Findings[None]:
    """Check the indices and sizes of the answers in a log, which may be truncated."""
    content = tree.read(path)
    if content is None or rules is None:
        return
    largest = max((int(match[1]) for match in _INDEX.finditer(content)), default=0)
    if largest >= rules.samples:
        what = f"it has an answer for sample {largest}, but the data set has {rules.samples}: another benchmark's log?"
        yield Problem(path, what, _CURE)
    answers = [(len(match[1]) // 2, bool(match[2]), match[1].strip(b"0")) for match in _DATA.finditer(content)]
    minimum, maximum = rules.answer_bytes
    for size, complete, value in answers:
        # Zeros alone do not show which benchmark an answer belongs to.
        if size > maximum or (complete and size < minimum and value):
            shown = f"{size}" if complete else f"at least {size}"
            what = f"it has answers of {shown} bytes, which are not those of {rules.mapped}: another benchmark's log?"
            yield Problem(path, what, _CURE)
            return
