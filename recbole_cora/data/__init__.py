"""Ratings as rows: labels, splits and histories, and the RecBole dataset over them."""
