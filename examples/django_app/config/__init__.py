"""Settings and entry points of the task list."""
