"""Tests of paribus.data."""
