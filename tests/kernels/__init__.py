"""Tests of markovscore.kernels."""
