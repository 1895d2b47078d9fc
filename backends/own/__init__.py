"""The user's own code: found and loaded, its models, losses and batches as a task."""
