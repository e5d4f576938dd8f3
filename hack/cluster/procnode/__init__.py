"""A Kubernetes node whose containers are plain processes.

It registers a Node, keeps its Lease, watches the pods bound to it, and runs each container's command in a session of
its own, on the pod's own loopback address. There are probes, restarts with back-off, preStop, SIGTERM and grace, init
containers, `kubectl logs`, and ConfigMap, Secret, projected and emptyDir volumes as folders. There are no images, no
isolation, no limits, no exec, and no Service names: the API server refuses loopback addresses in EndpointSlices.
"""
