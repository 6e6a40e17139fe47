"""Figures and pages from run directories."""
