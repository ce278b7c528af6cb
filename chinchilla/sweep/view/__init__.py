"""Show what a sweep is doing: status, live view, logs. Nothing here writes to the sweep's folder."""
