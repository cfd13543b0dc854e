"""Whether answers are those to a parcel: LoadGen's ids are addresses, and a wrong one would be the end of the process."""

import numpy as np
from numpy.typing import NDArray

from harness.cluster.messages import Answers
from harness.errors import RunFailed


def verify(name: str, ids: NDArray[np.uint64], answers: Answers) -> None:
    """Check the answers of the node ``name`` to a parcel with these ids.

    Raises:
        RunFailed: an id is foreign, twice or missing, or the responses are not within the buffer.
    """
    parcel = f"of parcel {answers.number}"
    if not np.array_equal(np.sort(answers.ids), np.sort(ids)):
        found = np.unique(answers.ids)
        if foreign := len(np.setdiff1d(found, ids)):
            raise RunFailed(f"node {name} answered {foreign} samples that are not {parcel}.")
        if len(answers.ids) > len(found):
            raise RunFailed(f"node {name} answered {len(answers.ids) - len(found)} samples {parcel} twice.")
        raise RunFailed(f"node {name} left out {len(ids) - len(found)} samples {parcel}.")
    offsets = answers.offsets
    if len(offsets) != len(ids) + 1 or offsets[0] or offsets[-1] != len(answers.buffer) or (np.diff(offsets) < 0).any():
        raise RunFailed(f"node {name} answered with broken responses to the samples {parcel}.")
