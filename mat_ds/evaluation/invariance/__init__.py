"""Tests of a model's behaviour from templates, as in CheckList (Ribeiro et al. 2020): functionality, invariance, direction."""
