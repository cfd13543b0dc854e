"""Finds the settings and the rates that suit this machine, by measurement."""
