"""Reports as Parquet: the rows of CSV with typed columns. Only this file imports pyarrow, which is optional."""

import io
import json
from collections.abc import Sequence

from pydantic import JsonValue

from harness.errors import MissingDependencyError
from harness.report.text import rows
from harness.results.finished import Finished


def as_parquet(runs: Sequence[Finished]) -> bytes:
    """A row for each run: each column has one type, lists are JSON, and missing values are null.

    Raises:
        MissingDependencyError: pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingDependencyError(
            "Parquet needs pyarrow: add it with `make setup PARQUET=1`, or use --format csv."
        ) from error
    found = rows(runs)
    columns = {name: _column([row[name] for row in found]) for name in (found[0] if found else ())}
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def _column(values: Sequence[JsonValue]) -> list[JsonValue]:
    """Values of one type: numbers stay numbers; lists and mixed types become text."""
    types = {type(value) for value in values if value is not None}
    if types == {int, float}:
        return [float(value) if isinstance(value, int) else value for value in values]
    if len(types) <= 1 and not types & {list, dict}:
        return list(values)
    return [v if v is None or isinstance(v, str) else json.dumps(v, ensure_ascii=False) for v in values]
