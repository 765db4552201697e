"""Nightshift: every night, new data into a better model that is proven, published and serving by morning."""
