"""What the project knows by name: the manifests of each benchmark, and their models and data sets here."""
