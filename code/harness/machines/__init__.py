"""Access to the machines of a cluster: hosts, Ray, node processes, connections and heartbeats."""
