"""What is written: Arrow schemas, partition layout, run records, failure codes."""
