"""The models and data sets that the project knows by name: manifests, and what exists on this machine."""
