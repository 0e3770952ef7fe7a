"""Timings of the parts that decide how fast training and evaluation are; `make bench` runs them all."""
