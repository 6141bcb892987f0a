"""Computation on a Ray cluster: tasks read clips, actors that hold the model compute them, and results stream back."""
