"""Measuring what runs cost: throughput of both tracks, and replay memory."""
