"""`starling dev`: the control loop over manifests in a folder, workers as local processes, an embedded NATS server."""
