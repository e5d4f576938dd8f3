"""The control plane: turns pools, subscriptions and scaling targets into streams, shard maps and pods."""
