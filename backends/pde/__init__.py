"""PDE problems, written once for every backend: what a user declares, and the task that is made of it."""
