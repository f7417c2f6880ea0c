"""The doctor: what a machine, its cluster, its stores and its models can do, before a night finds out."""
