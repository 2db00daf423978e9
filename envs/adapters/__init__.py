"""Adapters: classes between a suite's own package and Gymnasium, imported when one of its environments is made."""
