"""Which silence means that a node is lost, with simulated times."""

from __future__ import annotations

from harness.machines.actor_link import BEAT_SECONDS
from harness.machines.silence import SILENT_SECONDS, STARVED_SECONDS, Silence

FROZEN = 5.0
"""Seconds within which a frozen machine must be lost; connecting to it takes a second of them."""


def until_lost(reachable, step=BEAT_SECONDS, limit=200.0):
    """Seconds from the last answer until a node is lost that is looked at every ``step`` seconds."""
    silence, now = Silence(0.0, 0.0), 0.0
    silence.heard(now)
    while now < limit:
        now += step
        silence.look(now)
        if silence.verdict(reachable if silence.suspicious else None):
            return now
    return float("inf")


def test_a_frozen_machine_is_lost_in_time():
    assert SILENT_SECONDS < until_lost(reachable=False) <= FROZEN - 1.0


def test_a_node_without_processor_time_is_kept_while_its_machine_can_be_reached_but_not_for_ever():
    assert until_lost(reachable=True) > STARVED_SECONDS
    assert until_lost(reachable=True) <= STARVED_SECONDS + 1.0
    assert until_lost(reachable=None) > STARVED_SECONDS


def test_seconds_in_which_this_process_did_not_run_do_not_count():
    silence = Silence(100.0, 0.0)
    silence.look(100.5)
    silence.look(160.0)  # suspended, or starved
    assert not silence.suspicious
    assert not silence.verdict(False)
    # Each look counts a second at most: a driver that runs every four seconds is four times as patient.
    assert until_lost(reachable=False, step=4.0) == 4.0 * (SILENT_SECONDS + 1)


def test_an_answer_ends_the_silence_and_processes_have_time_to_start():
    silence = Silence(0.0, 240.0)
    for half_seconds in range(480):
        silence.look(half_seconds / 2)
        assert not silence.suspicious
    silence.heard(240.0)
    for half_seconds in range(2 * int(SILENT_SECONDS)):
        silence.look(240.5 + half_seconds / 2)
    assert not silence.suspicious
    silence.look(241.0 + SILENT_SECONDS)
    assert silence.verdict(False) == f"no answer for {SILENT_SECONDS:.0f} s, and its machine cannot be reached"
    silence.heard(242.0 + SILENT_SECONDS)
    assert not silence.verdict(False)
