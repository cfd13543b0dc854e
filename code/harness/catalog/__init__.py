"""What the project knows by name: the manifests of each benchmark, its models and data sets, and where they are here."""
