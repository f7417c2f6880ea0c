"""The models: one module a family, each with a class that a pool member loads and runs (workers.models.model)."""
