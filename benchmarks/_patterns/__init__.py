"""Ordinary concurrent programs, each written once, and the libraries that trace them, one module each."""
