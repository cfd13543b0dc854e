"""This machine: its processors, memory, clock, energy and processes."""
