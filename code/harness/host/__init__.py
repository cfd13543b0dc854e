"""This machine: its terminal, files, processes and hardware."""
