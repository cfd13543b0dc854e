"""Checks that answers belong to their parcel: LoadGen's ids are addresses, and an unknown one crashes the process."""

import numpy as np
from numpy.typing import NDArray

from harness.cluster.messages import Answers
from harness.errors import RunFailed
from harness.task.shape import Integers


def verify(name: str, ids: NDArray[np.uint64], answers: Answers) -> Integers:
    """Check the answers of the node ``name`` to a parcel with these ids.

    Returns:
        int64 (n,): the size of each response.

    Raises:
        RunFailed: an id is unknown, repeated or missing, or responses reach beyond the buffer.
    """
    parcel = f"of parcel {answers.number}"
    if len(answers.ids) != len(ids) or (np.sort(answers.ids) != np.sort(ids)).any():
        found = np.unique(answers.ids)
        if unknown := len(np.setdiff1d(found, ids)):
            raise RunFailed(f"node {name} answered samples that are not {parcel}: {unknown} of {len(found)}.")
        if len(answers.ids) > len(found):
            raise RunFailed(
                f"node {name} answered samples {parcel} twice: {len(answers.ids) - len(found)} of {len(ids)}."
            )
        raise RunFailed(f"node {name} left out samples {parcel}: {len(ids) - len(found)} of {len(ids)}.")
    offsets = answers.offsets
    sizes = offsets[1:] - offsets[:-1]
    if len(sizes) != len(ids) or offsets[0] or offsets[-1] != len(answers.buffer) or (sizes < 0).any():
        raise RunFailed(f"node {name} answered with broken responses to the samples {parcel}.")
    return sizes
