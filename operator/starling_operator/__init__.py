"""The control plane: from AgentPool, AgentSubscription and AgentScalingTarget to pods, streams and shard maps."""
