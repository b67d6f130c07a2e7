"""Aggregation, tables and figures of results."""
