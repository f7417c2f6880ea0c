"""What computes: functions on bytes, arrays and Arrow tables, and thin actor classes around models."""
