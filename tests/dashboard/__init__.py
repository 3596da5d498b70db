"""Tests of the dashboard: its reads, its pages, and a real browser."""
