"""What collaborative filtering knows of a pair: frozen encoders, evidence, and controls."""
