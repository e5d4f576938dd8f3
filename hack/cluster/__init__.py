"""A real Kubernetes for tests and demos, as plain local processes."""
