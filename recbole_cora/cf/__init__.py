"""Collaborative filtering knowledge about a pair: frozen encoders, evidence, and controls."""
