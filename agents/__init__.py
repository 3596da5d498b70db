"""What is done with a trained model: agents under smolagents and LangGraph, five simple patterns, made test data."""
