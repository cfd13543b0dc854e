"""This machine: its terminal, its files, its processes and what it is made of."""
