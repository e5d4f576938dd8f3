"""What the people who run a mesh do on its data plane: look, put right, save and restore. The command line calls it."""
