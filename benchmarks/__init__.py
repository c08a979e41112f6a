"""Speed side by side with peers: ``python -m benchmarks.layers`` writes results/ and, by benchmarks.report, the page
docs/performance.md.
"""
