"""Sweeps: many runs of the command, on this machine or on a cluster, of which none is lost or repeated."""
