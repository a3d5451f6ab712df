"""Ratings as rows with labels, splits and histories, and the RecBole dataset made from them."""
