"""Controlled systems: the layers of a network as time steps, and small systems given as functions."""
