"""What collaborative filtering knows about a pair: frozen encoders, evidence, and controls."""
