"""Adapters for frameworks that have a place for dispatch and combine, one file for each framework.

Each file imports its framework only if it has to; importing `fusco` imports none of them. docs/pytorch-frameworks.md
says which adapters are tested with the framework itself and which with a stand-in of its interface.
"""
