"""The mutation corpus: healthy models, each way of losing the phase planted into them, and a judge.

`make corpus` runs all of it and writes the table in docs/phase_truth.md; tests/test_corpus.py runs a fixed sample.
"""
