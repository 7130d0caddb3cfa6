"""Requests and answers: bodies are read strictly, results are written, faults are named."""
