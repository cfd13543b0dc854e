"""Reaches the machines of a cluster: hosts, Ray, the processes of nodes, connections and their heartbeats."""
