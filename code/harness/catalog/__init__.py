"""The models and data sets that the project knows by name: their manifests, and the copies on this machine."""
