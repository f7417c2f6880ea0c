"""The commands, by what they are for; pipelines.cli lists them."""
