"""The report: a lake as one HTML page, every figure with the query that gave it."""
