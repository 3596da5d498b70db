"""Tests of the network against independent references."""
