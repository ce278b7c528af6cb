"""What a sweep is doing, for people: status, progress, watch, logs. Nothing here writes."""
